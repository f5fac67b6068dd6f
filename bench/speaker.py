"""Rows for bench/run.py: the GE2E loss and the equal error rate, beside the libraries that people
train and test speaker encoders with.
Alone: `python bench/speaker.py`, or `python bench/speaker.py eer --rounds 3`."""

from importlib.metadata import version


def _batch(N, M, D):
    """Unit vectors of N speakers, all cosines positive, so that coqui's clamp does nothing and both
    losses must agree."""
    import torch

    from xtts_ka.core.randomness import torch_rng

    g = torch_rng(0, "bench", N, M, D)
    emb = torch.rand(N, M, D, generator=g) + torch.rand(N, 1, D, generator=g)
    return torch.nn.functional.normalize(emb, dim=2)


def _losses(N, M, D):
    "Forward and backward, ours and coqui's, after both gave the same loss and gradient."
    import torch
    from compare import cpu
    from TTS.encoder.losses import GE2ELoss as Coqui

    from xtts_ka.speaker.ge2e import GE2ELoss

    torch.set_num_threads(1)
    emb = _batch(N, M, D)

    def run(loss, times=1):
        for _ in range(times):
            x = emb.clone().requires_grad_()
            value = loss(x)
            value.backward()
        return value.detach(), x.grad

    ours, coqui = GE2ELoss(), Coqui(loss_method="softmax")

    def on_sphere(loss):
        return lambda x: loss(
            torch.nn.functional.normalize(x, dim=2)
        )  # coqui expects unit vectors and leaves their lengths free

    (a, da), (b, db) = run(on_sphere(ours)), run(on_sphere(coqui))
    assert abs(a - b) < 1e-4 * b and (da - db).norm() < 1e-3 * db.norm(), "the two losses differ"
    return (lambda: cpu(run, ours, 50) / 50), (lambda: cpu(run, coqui))


def _ge2e(N, M, D, target):
    from compare import Row

    ours, coqui = _losses(N, M, D)
    return Row(
        f"GE2E softmax, {N} speakers x {M} utterances x {D}, forward and backward",
        ours,
        {"coqui": coqui},
        {"coqui": target},
        f"one thread, cosines positive so that both are right; coqui-tts {version('coqui-tts')}",
    )


def ge2e():
    "A small batch, as fine-tuning on one machine has."
    return _ge2e(6, 8, 192, 1 / 20)


def ge2e_paper():
    "The paper's batch."
    return _ge2e(64, 10, 256, 1 / 100)


def eer():
    "The equal error rate of 18,860 + 18,860 scores."
    import torch
    from compare import Row, cpu
    from speechbrain.utils.metric_stats import EER

    from xtts_ka.core.randomness import rng
    from xtts_ka.speaker.verification import eer as ours

    torch.set_num_threads(1)
    r = rng(0, "bench eer")
    same, different = (
        r.normal(2, 1, 18860).astype("float32"),
        r.normal(0, 1, 18860).astype("float32"),
    )
    a, b = torch.from_numpy(same), torch.from_numpy(different)
    gap = abs(ours(same, different)[0] - EER(a, b)[0])
    assert gap < 1e-4, gap
    return Row(
        "equal error rate, 18,860 + 18,860 scores",
        lambda: cpu(lambda: [ours(same, different) for _ in range(20)]) / 20,
        {"speechbrain": lambda: cpu(EER, a, b)},
        {"speechbrain": 1 / 100},
        f"they differ by {gap:.0e} (SpeechBrain takes the nearest threshold); speechbrain"
        f" {version('speechbrain')}",
    )


ROWS = dict(ge2e=ge2e, ge2e_paper=ge2e_paper, eer=eer)

if __name__ == "__main__":
    from compare import main

    main(ROWS)
