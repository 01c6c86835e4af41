"""OpenCL devices by pyopencl: a kernel that multiplies and adds, one that copies, and transfers from the host."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from protocol.messages import DeviceFacts
from workers.benchmark.figures import Figures, best_seconds
from workers.hardware.probing import CannotTell

ITEMS = 1 << 18
ROUNDS = 64
FLOPS_PER_ITEM = ROUNDS * 4 * 8 * 2  # four chains, so that none waits for its last result, of eight floats each
MOST_BYTES = 256 * 1024**2
KERNELS = """
__kernel void multiply_and_add(__global float *out, const float a) {
    float8 w = (float8)(get_global_id(0)), x = w + 1, y = w + 2, z = w + 3;
    for (int round = 0; round < %d; round++) {
        w = mad(w, a, 1.0f); x = mad(x, a, 1.0f); y = mad(y, a, 1.0f); z = mad(z, a, 1.0f);
    }
    w += x + y + z;
    out[get_global_id(0)] = w.s0 + w.s1 + w.s2 + w.s3 + w.s4 + w.s5 + w.s6 + w.s7;
}
__kernel void copy(__global float4 *target, __global const float4 *source) {
    target[get_global_id(0)] = source[get_global_id(0)];
}
"""


def measure(facts: DeviceFacts) -> Figures:
    """Raises CannotTell where OpenCL does not know the device."""
    if find_spec("pyopencl") is None:
        raise CannotTell("pyopencl is not installed on this node")
    import numpy as np
    import pyopencl as cl

    device = _device(facts)
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, KERNELS % ROUNDS).build(options=["-cl-mad-enable"])
    multiply_and_add, copy = cl.Kernel(program, "multiply_and_add"), cl.Kernel(program, "copy")
    size = min(MOST_BYTES, device.max_mem_alloc_size, device.global_mem_size // 8) // 16 * 16
    flags = cl.mem_flags

    def gflops() -> float:
        out = cl.Buffer(context, flags.WRITE_ONLY, ITEMS * 4)
        multiply_and_add.set_args(out, np.float32(0.5))
        return _rate(lambda: _run(queue, multiply_and_add, ITEMS), FLOPS_PER_ITEM * ITEMS) / 1e9

    def bytes_per_second() -> float:
        source, target = (cl.Buffer(context, flags.READ_WRITE, size) for _ in range(2))
        # Memory that was never written may not be there yet.
        cl.enqueue_fill_buffer(queue, source, np.ones(1, np.float32), 0, size)
        copy.set_args(target, source)
        return _rate(lambda: _run(queue, copy, size // 16), 2 * size)

    def host_to_device() -> float:
        pinned = cl.Buffer(context, flags.READ_ONLY | flags.ALLOC_HOST_PTR, size)
        host, _ = cl.enqueue_map_buffer(queue, pinned, cl.map_flags.WRITE, 0, (size // 4,), np.dtype(np.float32))
        host[:] = 1
        target = cl.Buffer(context, flags.READ_WRITE, size)
        return _rate(lambda: cl.enqueue_copy(queue, target, host, is_blocking=True), size)

    figures = Figures(f"OpenCL kernels by {device.platform.name}: multiplying and adding in registers; copying")
    figures.take("gflops", gflops)
    figures.take("memory_bytes_per_second", bytes_per_second)
    figures.take("host_to_device_bytes_per_second", host_to_device)
    return figures


def _device(facts: DeviceFacts) -> Any:
    from workers.hardware import opencl

    devices = opencl.found()
    if facts.kind == "opencl":
        index = int(facts.name.partition(":")[2])
        if index < len(devices):
            return devices[index]
    for device in devices:
        if facts.pci_address is not None and opencl.pci_address(device) == facts.pci_address:
            return device
    raise CannotTell("no OpenCL driver on this node knows this device")


def _run(queue: Any, kernel: Any, items: int) -> None:
    import pyopencl as cl

    cl.enqueue_nd_range_kernel(queue, kernel, (items,), None)
    queue.finish()


def _rate(work: Any, amount: float) -> float:
    return amount / best_seconds(work)
