"""Workers for the tests of the engine, of a module that other processes can import, and a cluster
for them."""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np

from xtts_ka.core.audio import read_audio, rms_db
from xtts_ka.core.errors import AudioError
from xtts_ka.core.shards import reject_reason


class Levels:
    "Level and spectrum of each clip; may die at one of them, as by `kill -9`."

    def __init__(self, dies_at="", dies_once=None, pause=0.0):
        self.dies_at = dies_at  # Name of a clip
        self.dies_once = dies_once and Path(dies_once)  # A file that shows that it has died
        self.pause = pause  # Seconds per clip

    def __call__(self, clips):
        for clip in clips:
            if clip.name == self.dies_at and not (self.dies_once and self.dies_once.exists()):
                if self.dies_once:
                    self.dies_once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.pause)
            try:
                wav, rate = read_audio(clip.path)
            except AudioError as e:
                yield {"reason": reject_reason(e)}
                continue
            spectrum = np.abs(np.fft.rfft(wav[:1024])).astype(np.float32)
            yield {"seconds": len(wav) / rate, "db": float(rms_db(wav)), "spectrum": spectrum}


class Impossible:
    "A worker that cannot be made."

    def __init__(self):
        from xtts_ka.core.errors import MissingError

        raise MissingError("the model is not there")


def _again(start):
    "Processes that Ray starts give up after 15 seconds; on a busy machine it takes some tries."
    from xtts_ka.core.engine import patient_ray

    for _ in range(5):
        with contextlib.suppress(TimeoutError), patient_ray():
            return start()
    with patient_ray():
        return start()


@contextlib.contextmanager
def cluster_of_three():
    "Yields a cluster of a head and two nodes on this machine, and the two; each has one core."
    from ray.cluster_utils import Cluster

    from xtts_ka.core.engine import RAY_ENV

    path = os.environ.get("PYTHONPATH", "")
    # What the nodes start finds this folder
    os.environ.update(
        RAY_ENV | dict(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), path]))
    )
    memory, cluster = 80 << 20, None
    try:
        head = dict(num_cpus=1, object_store_memory=memory, include_dashboard=False)
        cluster = _again(lambda: Cluster(initialize_head=True, head_node_args=head))
        node = dict(num_cpus=1, object_store_memory=memory)
        nodes = [_again(lambda: cluster.add_node(**node)) for _ in "ab"]
        yield cluster, nodes
    finally:
        if cluster:
            cluster.shutdown()
        os.environ["PYTHONPATH"] = path
