def estimate_bytes(version, options):
    return 2 * version.size_bytes + 96 * 2**20


def platform(version):
    return "onnxruntime_onnx"
