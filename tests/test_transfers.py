"""Transfers between host and device: blocks of tensors, several downloads with one wait, ONNX Runtime's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker

from etam_edge import Prompt, Tracker
from etam_edge.bundle import TensorSpec
from etam_edge.runtimes.backends.buffers import HostDevice
from etam_edge.runtimes.backends.cuda import device as cuda_device
from etam_edge.runtimes.backends.cuda.device import CudaDevice
from etam_edge.runtimes.block import ALIGNMENT, Block
from etam_edge.spec import Pooling
from etam_edge_testing.simulated import A100, ORIN, SimulatedCuda
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

from etam_edge.runtimes.backends.onnxruntime import backend as onnxruntime_backend

SPECS = (
    TensorSpec("score", "float32", ("objects",)),
    TensorSpec("choice", "int32", ("objects",)),
    TensorSpec("pointer", "float16", ("objects", 7)),
)


@pytest.mark.parametrize("make", [HostDevice, lambda: CudaDevice(SimulatedCuda())], ids=["host", "GPU"])
def test_a_block_carries_the_first_rows_of_each_tensor(make: Any) -> None:
    device = make()
    block = Block(device, SPECS, rows=5)
    values = {
        "score": np.arange(3, dtype=np.float32),
        "choice": np.arange(3, dtype=np.int32) * 10,
        "pointer": np.arange(21, dtype=np.float16).reshape(3, 7),
    }
    block.upload(values)
    for name, buffer in block.tensors.items():
        assert buffer.shape == {"pointer": (5, 7)}.get(name, (5,))
        assert (buffer.address - block.tensors["score"].address) % ALIGNMENT == 0
        np.testing.assert_array_equal(device.download(buffer.rows(0, 3)), values[name])
    part = block.part(3)
    assert part.nbytes == 2 * ALIGNMENT + 3 * 7 * 2 < block.nbytes
    found = block.split(device.download(part), 3)
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("gpu", [A100, ORIN], ids=["own memory", "shared memory"])
def test_several_downloads_wait_once(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimulatedCuda(gpu)
    device = CudaDevice(cuda)
    arrays = [np.full(size, size, dtype=np.int32) for size in (100, 7, 300)]
    buffers = [(device.shared if index == 1 else device.empty)((len(a),), "int32") for index, a in enumerate(arrays)]
    for array, buffer in zip(arrays, buffers, strict=True):
        device.upload(array, buffer)
    before = cuda.calls["synchronize"]
    for found, array in zip(device.download_all(buffers), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    assert cuda.calls["synchronize"] == before + 1
    # As often as the staging memory is full, where it is too small for all of them.
    monkeypatch.setattr(cuda_device, "STAGING", 512)
    for found, array in zip(device.download_all(buffers), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    assert device.download_all([]) == []


def test_onnx_runtimes_memory_is_allocated_once(
    small_bundle: SmallBundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA's provider does, on the CPU's memory: frames are tracked without an allocation on the device."""
    tracker = Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu")
    tracker.backend.device = device = onnxruntime_backend.OrtDevice("cpu")
    session = tracker.start_session(max_objects=2)
    click = Prompt(points=[(64, 88)], labels=[1])
    for index in range(4):
        session.track(clip_frame(index), prompts={1: click} if index == 0 else None)
    ort = onnxruntime_backend.import_onnxruntime()
    made: list[str] = []
    for name in ("ortvalue_from_numpy", "ortvalue_from_shape_and_type"):
        monkeypatch.setattr(ort.OrtValue, name, staticmethod(lambda *_, name=name: made.append(name)))
    for index in range(4, 9):
        session.track(clip_frame(index))
    assert made == []
    monkeypatch.undo()
    content = np.arange(12, dtype=np.float32).reshape(3, 4)
    whole = device.empty((3, 4), "float32")
    device.upload(content, whole)
    device.upload(content[:1], whole.rows(2, 3))
    np.testing.assert_array_equal(device.download(whole), content[[0, 1, 0]])
    np.testing.assert_array_equal(device.download(whole.rows(1, 3)), content[[1, 0]])
    with pytest.raises(ValueError, match="does not fit a buffer"):
        device.upload(content, whole.rows(0, 1))
    # What is large is not kept.
    monkeypatch.setattr(onnxruntime_backend, "KEPT_STAGING", 15)
    kept = set(device._staging)
    np.testing.assert_array_equal(device.download(whole.rows(0, 3).rows(0, 2)), content[:2])
    assert set(device._staging) == kept
