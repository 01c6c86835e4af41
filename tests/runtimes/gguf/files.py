"""The example model, changed."""

from __future__ import annotations

from pathlib import Path

import gguf

RHYMES = Path(__file__).resolve().parents[3] / "examples" / "rhymes" / "rhymes.gguf"
LOOPS = {
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
    "one large number": "{% set x = 9 ** (9 ** 9) %}",
    "memory": "{% set t = namespace(x='0123456789') %}{% for a in range(60) %}{% set t.x = t.x ~ t.x %}{% endfor %}",
    "output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


def with_template(path: Path, template: str | None) -> Path:
    """The example with another template."""
    reader = gguf.GGUFReader(RHYMES)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", gguf.Keys.Tokenizer.CHAT_TEMPLATE):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    if template is not None:
        writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
