"""The sbatch scripts of `xtts-ka slurm`: bash reads them, and every program in them knows its
options. Slurm itself is not here; a step is what the script says behind `srun`."""

import re
import shlex
import subprocess

import pytest
from calls import called

SMOKE = "configs/smoke.yaml"
FACTS = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "first": "node-1"}


def written(folder, *words, root, code=0):
    said = called("slurm", "--out", folder, *words, cwd=root, root=root)
    assert said.returncode == code, said.stderr
    return said if code else {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir()}


def steps(script):
    "What a script starts, in words, as bash would hand them over."
    text = script.replace("\\\n", " ")
    for name, value in FACTS.items():
        text = re.sub(rf"\${name}\b", value, text)
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("srun ")]


def known_to_ray(words):
    "`ray symmetric-run`, and the options that it hands to `ray start`; the rest is returned."
    scripts = pytest.importorskip("ray.scripts.scripts")
    from ray.scripts.symmetric_run import symmetric_run

    cut = words.index("--")
    asked = symmetric_run.make_context("ray", list(words[2:cut]), resilient_parsing=True).params
    assert (asked["address"], asked["min_nodes"]) == ("node-1:6379", 2)
    start = {name for p in scripts.start.params for name in p.opts}
    rest = [w for w in asked["ray_args_and_entrypoint"] if w.startswith("--")]
    assert rest and set(rest) <= start
    return words[cut + 1 :]


def known_to_torchrun(words):
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(words[1:])
    assert args.module and args.training_script == "xtts_ka.cli"
    assert args.nnodes == "2" and args.rdzv_endpoint == "node-1:29500" and args.max_restarts == 3
    return ["xtts-ka", *args.training_script_args], int(args.nproc_per_node)


def parsed(words):
    from xtts_ka.pipeline.cli import parse

    assert words[0] == "xtts-ka"
    return parse(words[1:])


def test_scripts_of_a_run(root, tmp_path):
    from xtts_ka.pipeline.stages import load_run

    asked = ["--nodes", "2", "--gpus", "4", "--account", "speech", "--time", "2-00:00:00"]
    found = written(tmp_path, "--config", SMOKE, *asked, "seed=3", root=root)
    assert set(found) == {"data.sbatch", "train.sbatch", "rest.sbatch", "submit.sh"}
    for name, text in found.items():
        subprocess.run(["bash", "-n", tmp_path / name], check=True)
        if name != "submit.sh":
            assert "#SBATCH --account=speech\n" in text and "#SBATCH --time=2-00:00:00\n" in text
            assert "#SBATCH --gpus-per-node=4\n" in text and "--partition" not in text
    (data,) = steps(found["data.sbatch"])
    data = parsed(known_to_ray(data))
    assert data.to == "xtts_init" and (data.engine, data.ray_address) == ("ray", "auto")
    prepare, train = steps(found["train.sbatch"])
    prepare = parsed(prepare[2:])
    assert prepare.prepare
    train, processes = known_to_torchrun(train)
    train = parsed(train)
    (rest,) = steps(found["rest.sbatch"])
    rest = parsed(rest[2:])
    # One configuration for all: a stage that one of them made is up to date for the next
    assert data.overrides == prepare.overrides == train.overrides == rest.overrides
    loop = load_run(root / SMOKE, train.overrides).full_pretrain.gpt.loop
    assert (loop.devices, loop.num_nodes, loop.strategy) == (processes, 2, "ddp") == (4, 2, "ddp")
    queued = re.findall(
        r"^(\w+)=\S+ --parsable (?:--dependency=(\S+) )?.*/(\w+).sbatch", found["submit.sh"], re.M
    )
    assert [q[0] for q in queued] == [q[2] for q in queued] == ["data", "train", "rest"]
    assert [q[1] for q in queued] == ["", 'afterok:"$data"', 'afterok:"$train"']


def test_submission_passes_job_numbers_on(root, tmp_path):
    "`submit.sh` with an sbatch that counts: each job waits for the one before."
    written(tmp_path / "jobs", "--config", SMOKE, root=root)
    fake = tmp_path / "sbatch"
    fake.write_text('#!/bin/bash\necho "$@" >> "$LOG"; wc -l < "$LOG"\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(tmp_path / "log")}
    said = subprocess.run(
        ["bash", tmp_path / "jobs/submit.sh"], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert said == "data: job 1\ntrain: job 2\nrest: job 3\n"
    asked = (tmp_path / "log").read_text().splitlines()
    assert [re.findall(r"afterok:\d+", line) for line in asked] == [
        [],
        ["afterok:1"],
        ["afterok:2"],
    ]


def test_scripts_of_a_vocoder_and_a_sweep(root, tmp_path):
    config = "configs/vocoder/v2.yaml"
    more = ["--nodes", "2", "--strategy", "ddp", "datasets.train.dataset_path=my data"]
    more += ["path_to_save=outputs/two"]
    found = written(tmp_path / "v", "--kind", "vocoder", "--config", config, *more, root=root)
    (step,) = steps(found["train.sbatch"])
    words, processes = known_to_torchrun(step)
    assert {"datasets.train.dataset_path=my data", "path_to_save=outputs/two"} <= set(
        words
    ) and processes == 1
    assert {"loop.devices=1", "loop.num_nodes=2"} <= set(words)
    assert parsed(words).config == config
    words = ["--kind", "sweep", "--config", SMOKE, "seed=1,2", "--data-nodes", "2"]
    found = written(tmp_path / "s", *words, root=root)
    (step,) = steps(found["sweep.sbatch"])
    args = parsed(known_to_ray(step))
    assert args.overrides == ["seed=1,2"] and args.engine == "ray"
    for name, folder in (("train", "v"), ("sweep", "s")):
        subprocess.run(["bash", "-n", tmp_path / folder / f"{name}.sbatch"], check=True)


@pytest.mark.parametrize(
    "words, why",
    [
        (["--config", SMOKE, "corpus.vocies=2"], "did you mean `corpus.voices`"),
        (["--config", SMOKE, "--time", "soon"], "--time 'soon'"),
        (["--config", SMOKE, "--partition", "gpu\n#SBATCH --qos=x"], "--partition"),
        (["--config", SMOKE, "--nodes", "0"], "nodes"),
        (["--config", SMOKE, "skip=[full_pretrain,evaluate]"], "skips full_pretrain"),
        (["--config", SMOKE, "--kind", "sweep", "seed=1"], "no key has several values"),
        (["--config", SMOKE, "--strategy", "fsdp2"], "does not go with gpt.optimizer=muon"),
        (
            ["--config", "configs/vocoder/v2.yaml", "--kind", "vocoder", "--strategy", "fsdp2"],
            "a vocoder is small",
        ),
    ],
)
def test_refused_before_anything_is_written(root, tmp_path, words, why):
    said = written(tmp_path / "jobs", *words, root=root, code=2)
    assert why in said.stderr and not (tmp_path / "jobs").exists()
