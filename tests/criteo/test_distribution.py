"""Strategies of tf.distribute: the same masks everywhere, the loss of one replica."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo.models.training import distributed_batches

PROGRAM = pathlib.Path(__file__).with_name("train_distributed.py")


def start(name, folder, output, cluster=None, task=None, between=1, victim=""):
    environment = dict(os.environ)
    if cluster is not None:
        kind, index = task
        configuration = {"cluster": cluster, "task": {"type": kind, "index": index}}
        environment["TF_CONFIG"] = json.dumps(configuration)
    return subprocess.Popen(
        [sys.executable, PROGRAM, name, folder, output, str(between), str(victim)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process, output):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.read_text())


def addresses(count):
    """Free ports of this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    names = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return names


@pytest.fixture(scope="module")
def alone(converted, tmp_path_factory):
    """What one replica makes of the same global batches."""
    output = tmp_path_factory.mktemp("alone") / "result.json"
    return result(start("none", converted, output), output)


def check_agrees(found, alone):
    assert found["steps"] == 40
    for mask in found["masks"]:
        np.testing.assert_array_equal(mask, found["masks"][0])
        # Sums in another order are rounded differently; few blocks are that close.
        assert np.mean(np.array(mask) == alone["masks"][0]) >= 0.98
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=5e-3)
    assert found["validation_loss"] == pytest.approx(alone["validation_loss"], rel=5e-3)


@pytest.mark.slow
def test_two_replicas_of_a_machine_agree_with_one(converted, alone, tmp_path):
    output = tmp_path / "result.json"
    found = result(start("mirrored", converted, output), output)
    assert len(found["masks"]) == 2
    check_agrees(found, alone)


@pytest.mark.slow
def test_two_processes_agree_with_one(converted, alone, tmp_path):
    cluster = {"worker": addresses(2)}
    outputs = [tmp_path / f"{index}.json" for index in range(2)]
    running = [
        start("multiworker", converted, output, cluster, ("worker", index))
        for index, output in enumerate(outputs)
    ]
    first, second = (
        result(process, output)
        for process, output in zip(running, outputs, strict=True)
    )
    check_agrees(first, alone)
    check_agrees(second, alone)
    assert first["masks"] == second["masks"]


@pytest.mark.slow
@pytest.mark.parametrize("workers, killed", [(1, False), (2, False), (2, True)])
def test_parameter_servers_train_as_well(workers, killed, converted, alone, tmp_path):
    # Two servers share out the tables; one worker suffices to compare results.
    number = 2 if workers == 1 else 1
    chief, *addressed = addresses(1 + number + workers)
    parts, others = addressed[:number], addressed[number:]
    cluster = {"chief": [chief], "ps": parts, "worker": others}
    output = tmp_path / "result.json"
    servers = [
        start("parameter_server", converted, output, cluster, task)
        for task in [
            *(("ps", index) for index in range(number)),
            *(("worker", index) for index in range(workers)),
        ]
    ]
    # Where workers need not wait after each step, several run at a time.
    between = 1 if workers == 1 else 4
    try:
        # Its steps are given to the other worker.
        victim = servers[-1].pid if killed else ""
        process = start(
            "parameter_server",
            converted,
            output,
            cluster,
            ("chief", 0),
            between,
            victim,
        )
        found = result(process, output)
        if killed:
            assert servers[-1].wait(timeout=60) == -signal.SIGKILL
    finally:
        for each in servers:
            each.kill()
            each.communicate()
    if workers == 1:
        check_agrees(found, alone)
        return
    # Not in step with one another, they see other weights than one worker does.
    assert found["steps"] == 40
    assert np.sum(found["masks"]) == 40
    assert found["validation_loss"] == pytest.approx(alone["validation_loss"], rel=0.1)


def test_a_worker_reads_its_share_of_every_batch(converted):
    batches = distributed_batches(
        tf.distribute.MirroredStrategy(["CPU:0"]), converted, "train", 64, seed=0
    )
    features, labels = next(iter(batches))
    assert features["numeric"].shape == (64, 13) and labels.shape == (64,)
