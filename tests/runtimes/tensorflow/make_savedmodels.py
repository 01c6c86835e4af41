"""Writes real SavedModels into a folder, honest and hostile, and what TensorFlow itself says of them. A program of its
own: TensorFlow takes seconds to import and should not be in the process of the tests.

    python make_savedmodels.py FOLDER    (`digits` in it: the unpacked example)
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python import ops

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


class Odd(tf.Module):
    """Names that are none in Python, strings in and out, a scalar, and two ways to fail."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="a-b"), tf.TensorSpec([], tf.int32, name="n")])
    def serve(self, text, n):
        with tf.control_dependencies([tf.debugging.assert_non_negative(n, "n must not be negative")]):
            size = tf.cast(tf.identity(n), tf.int64)
        return {"o/1": tf.strings.upper(text), "sum": tf.reduce_sum(tf.fill(tf.stack([size, size, 1000]), 1.0))}


def serving(body, shape=(), dtype=tf.string):
    """A module whose signature does that."""
    module = tf.Module()
    module.serve = tf.function(body, input_signature=[tf.TensorSpec(shape, dtype, name="x")])
    return module


def from_file(vocabulary: Path) -> tf.Module:
    vocabulary.write_text("zero\none\n")
    module = serving(lambda x: {"y": module.table.lookup(x)})
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    return module


def written(x):
    tf.io.write_file(x, x)
    return {"y": x}


def restored(x):
    return {"y": tf.raw_ops.RestoreV2(prefix=x, tensor_names=["t"], shape_and_slices=[""], dtypes=[tf.float32])[0]}


def saved(x):
    tf.raw_ops.SaveV2(prefix=x, tensor_names=["t"], shape_and_slices=[""], tensors=[x])
    return {"y": x}


def printed(x):
    tf.print(x, output_stream="file:///tmp/anywhere")
    return {"y": x}


def hostile(folder: Path) -> dict[str, tf.Module]:
    return {
        "ReadFile": serving(lambda x: {"y": tf.io.read_file(x)}),
        "WriteFile": serving(written),
        "MatchingFiles": serving(lambda x: {"y": tf.io.matching_files(x)}),
        "PyFunc": serving(lambda x: {"y": tf.numpy_function(lambda y: y, [x], tf.string)}),
        "EagerPyFunc": serving(lambda x: {"y": tf.py_function(lambda y: y, [x], tf.string)}),
        "TFRecordDataset": serving(lambda x: {"y": tf.data.TFRecordDataset(x).reduce(b"", lambda _, y: y)}),
        "RestoreV2": serving(restored),
        "SaveV2": serving(saved),
        "PrintV2": serving(printed),
        "ImmutableConst": serving(
            lambda x: {"y": tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name="/etc/hostname")}
        ),
        "InitializeTableFromTextFileV2": from_file(folder / "words.txt"),
    }


def text_model() -> keras.Model:
    """What people make: words, an embedding, a recurrent network."""
    return keras.Sequential(
        [
            keras.layers.Input((1,), dtype="string"),
            keras.layers.TextVectorization(vocabulary=["a", "b", "c"], output_sequence_length=4),
            keras.layers.Embedding(8, 4),
            keras.layers.Bidirectional(keras.layers.LSTM(3)),
            keras.layers.Dense(2, "softmax"),
        ]
    )


def tensorflow_1(folder: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None])
        y = x * tf.compat.v1.get_variable("w", [1])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})


def operators() -> dict[str, list[str]]:
    """By the module that they are in."""
    modules = sorted(Path(ops.__file__).parent.glob("gen_*.py"))
    return {path.stem[4:]: sorted(set(re.findall(r'raw_ops\.(\w+)"', path.read_text()))) for path in modules}


def main(folder: Path) -> None:
    images = np.load(DIGITS / "heldout.npz")["images"].astype(np.float32)
    digits = tf.saved_model.load(str(folder / "digits")).signatures["serving_default"]
    answers = {str(rows): digits(image=tf.constant(images[:rows])) for rows in (1, 2, 64)}
    np.savez(folder / "answers.npz", **{f"{n}/{k}": v.numpy() for n, one in answers.items() for k, v in one.items()})

    odd = Odd()
    tf.saved_model.save(odd, str(folder / "odd"), signatures=odd.serve)
    tf.saved_model.save(odd, str(folder / "unsigned"), signatures={})
    tf.saved_model.save(odd, str(folder / "misnamed"), signatures={"other": odd.serve})
    unranked = serving(lambda x: {"y": x}, None, tf.float32)
    tf.saved_model.save(unranked, str(folder / "unranked"), signatures=unranked.serve)
    fixed = serving(lambda x: {"y": 2 * x}, [1, 2], tf.float32)
    tf.saved_model.save(fixed, str(folder / "fixed"), signatures=fixed.serve)
    text_model().export(str(folder / "text"), verbose=False)
    tensorflow_1(folder / "tensorflow_1")
    for name, module in hostile(folder).items():
        tf.saved_model.save(module, str(folder / name), signatures=module.serve)
    (folder / "operators.json").write_text(json.dumps(operators()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
