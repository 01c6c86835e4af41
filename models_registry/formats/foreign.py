"""Files that people upload by mistake or in hope, by their first bytes, so that the refusal can say what they are."""

from __future__ import annotations

from collections.abc import Collection

EXPORT = "export it: torch.export.save(torch.export.export(model, inputs), 'model.pt2'), or torch.onnx.export"
SAVE = "save it as a SavedModel with model.export(folder) and push that folder, packed as a zip archive"
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras .h5), which may hold code; {SAVE}"),
    (b"\x93NUMPY", "a NumPy array (.npy), not a model"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull` first"),
    (b"<!DOCTYPE", "a web page; the download probably gave an error page instead of the model"),
    (b"<!doctype", "a web page; the download probably gave an error page instead of the model"),
    (b"<html", "a web page; the download probably gave an error page instead of the model"),
    (b"<?xml", "an XML file (OpenVINO keeps its models so)"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x7fELF", "a program (ELF)"),
    (b"MZ", "a program for Windows"),
    (b"\xcf\xfa\xed\xfe", "a program for macOS"),
    (b"#!", "a script"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
)


def name(head: bytes) -> str | None:
    """What the file is, as the end of a sentence; None when it may be a model of ours."""
    for magic, what in MAGIC:
        if head.startswith(magic):
            return what
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a Python pickle, which can run any code when it is loaded; {EXPORT}"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[:3] == b"\x08\x01\x12" and len(head) > 4 and head[3] >= 0x80 and head[4] >= 0x20:
        return (
            "the graph of a TensorFlow SavedModel without its variables; push the whole folder, packed as a zip archive"
        )
    return None


def archive(names: Collection[str]) -> str | None:
    """The same for a zip archive, by the names of its files; None when it may be a folder with a model."""
    if not names:
        return "an empty archive"
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return (
            "a PyTorch checkpoint (.pt, .pth): weights without a graph, loaded by unpickling. Build the model, load "
            f"them into it and {EXPORT}"
        )
    if all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz), not a model"
    if "metadata.json" in names and "config.json" in names:
        return f"a Keras archive (.keras), which may hold code; {SAVE}"
    return None
