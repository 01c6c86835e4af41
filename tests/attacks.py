"""Every attack by a file that we know of, what stops it, and the test that tries it.

The table in docs/security.md is made from this: `python -m tests.attacks` prints it, and to what is there."""

from __future__ import annotations

from typing import NamedTuple

MODELS, WORKERS, SANDBOX, GGUF = (
    "tests/models_registry",
    "tests/workers",
    "tests/workers/sandbox",
    "tests/runtimes/gguf",
)
CHECK = "the check at upload"
ZIP = "the check at upload: rules for archives"


class Attack(NamedTuple):
    what: str
    stopped_by: str
    test: str  # file::function


class Group(NamedTuple):
    title: str
    attacks: tuple[Attack, ...]


def of(file: str, *attacks: tuple[str, str, str]) -> tuple[Attack, ...]:
    """Attacks whose tests are in one file."""
    return tuple(Attack(what, stopped_by, f"{file}::{test}") for what, stopped_by, test in attacks)


ARCHIVES = of(
    f"{MODELS}/test_zipped.py",
    ("a zip bomb: 66 kB that become 64 MB", ZIP, "test_a_bomb"),
    ("a zip bomb whose directory lies about its size", ZIP, "test_a_bomb_that_lies_about_its_size"),
    ("more than 10,000 files in one archive", ZIP, "test_more_files_than_a_model_has"),
    ("a directory that claims two gigabytes", ZIP, "test_a_directory_that_claims_to_be_huge"),
    ("two files of one name", ZIP, "test_two_files_of_one_name"),
    ("two files on the same bytes", ZIP, "test_overlapping_files"),
    ("a header that names another file than the directory", ZIP, "test_a_header_that_names_another_file"),
    ("a header that is compressed otherwise than the directory says", ZIP, "test_a_header_that_compresses_otherwise"),
    ("an encrypted file", ZIP, "test_an_encrypted_file"),
    ("names with `..`, absolute, over 255 characters, unprintable", ZIP, "test_names_that_lead_out"),
    ("names with backslashes", ZIP, "test_a_backslash_is_no_way_out"),
    ("a symbolic link", ZIP, "test_a_link"),
    ("a file that was changed after packing", ZIP, "test_a_changed_byte_is_found"),
) + of(
    f"{MODELS}/test_folders.py",
    ("an archive in an archive; a Keras or NumPy archive", CHECK, "test_what_is_refused_leaves_nothing"),
    ("a tar archive, which could hold hard links", CHECK, "test_other_archives_are_named"),
)

TORCH = (
    of(
        f"{MODELS}/test_torch_archives.py",
        ("a pickle under any name, a bare `state_dict`", CHECK, "test_bare_pickles_are_told_how_to_become_a_model"),
        (
            "pickles that name `eval`, use other opcodes, have two million parts",
            "the check at upload: allowed opcodes and names",
            "test_pickles_that_are_none",
        ),
        (
            "TorchScript: stride 0 (10^12 elements of 64), views beyond their storage, offsets that are no numbers, "
            "compressed weights, a record twice, missing or lying",
            CHECK,
            "test_a_torchscript_archive_that_lies",
        ),
        (
            "TorchScript: code that names `from_file` or `save` of `torch` or `aten`, or `c10d`, however it is spaced",
            "the check at upload; the cage, which alone stops what is named otherwise",
            "test_code_that_reaches_out_is_refused",
        ),
        (
            "`.pt2`: a poisoned example input",
            "the check at upload; our loader reads no examples; the cage",
            "test_poison_in_the_example_inputs_is_found_and_never_runs",
        ),
        (
            "`.pt2`: Python in sizes, names, guards, operators, containers",
            "the check at upload: our own reader of graphs",
            "test_a_graph_that_is_no_graph_is_refused",
        ),
        ("`.pt2`: stride 0, pickled or missing weights", CHECK, "test_weights_that_are_not_there_are_refused"),
        (
            "`.pt2`: machine code, objects of Python, a second model, JSON 100,000 deep",
            CHECK,
            "test_records_that_nobody_needs_are_refused",
        ),
    )
    + of(
        "tests/runtimes/test_torch.py",
        (
            "`.pt2`: the poisoned example input, past the check",
            "a runner reads no examples",
            "test_poisoned_example_inputs_never_run",
        ),
        (
            "`.pt2`, TorchScript: files that PyTorch cannot read",
            "the runner's process",
            "test_why_it_did_not_load_is_told",
        ),
    )
    + of(
        f"{SANDBOX}/test_torch_attacks.py",
        (
            "TorchScript that reads a secret and makes a file; `.pt2` that runs a command; both loaded by PyTorch",
            "the cage: Landlock, seccomp",
            "test_a_torchscript_and_a_pt2_that_attack_are_contained",
        ),
    )
)

ONNX = (
    of(
        f"{MODELS}/test_onnx_folders.py",
        (
            "weights at `..`, nested `..`, absolute paths, `*/_ORT_MEM_ADDR_/*`, with negative, huge, short or "
            "overflowing extents",
            CHECK,
            "test_weights_anywhere_else_are_refused",
        ),
        ("a link in place of the weights", ZIP, "test_a_link_instead_of_the_data_is_refused"),
        ("a place that means two things", CHECK, "test_a_place_that_means_two_things_is_refused"),
        ("many tensors of the same bytes", CHECK, "test_the_same_bytes_are_not_many_tensors"),
        ("an attribute with two values", CHECK, "test_an_attribute_has_one_value"),
    )
    + of(
        f"{MODELS}/test_onnx.py",
        (
            "external data in a node, a branch, a function",
            CHECK,
            "test_weights_in_other_files_are_refused_wherever_they_hide",
        ),
        (
            "operators of no known library: in the graph, in branches and loops, in lists of graphs, in functions",
            CHECK,
            "test_operators_that_no_node_has_are_refused_wherever_they_hide",
        ),
        ("a million nodes", CHECK, "test_a_million_nodes_are_refused_soon"),
        ("the same, within a loop", CHECK, "test_nodes_within_graphs_are_counted"),
        ("graphs 10,000 deep", CHECK, "test_ten_thousand_graphs_within_graphs_are_refused_soon"),
        ("countless parts of nothing", CHECK, "test_a_file_made_of_countless_parts_is_refused_soon"),
        (
            "2^60 elements in no bytes, among the weights or in a constant",
            CHECK,
            "test_a_tensor_smaller_than_its_shape_is_refused",
        ),
    )
    + of(
        f"{MODELS}/test_onnx_constants.py",
        (
            "constants that take minutes or terabytes to compute at loading: by products, by their shape; in the "
            "graph, in branches, in functions",
            CHECK,
            "test_constants_that_take_for_ever_to_compute_are_refused",
        ),
        (
            "functions that call each other ten times each",
            CHECK,
            "test_functions_are_counted_as_often_as_they_are_called",
        ),
        ("a function that calls itself", CHECK, "test_a_function_that_calls_itself_is_refused"),
    )
    + of(
        f"{WORKERS}/test_onnx_runtime.py",
        (
            "weights at `..`, `/dev/zero`, by a symbolic link, past the check",
            "onnxruntime; the cage",
            "test_weights_elsewhere_are_not_read",
        ),
    )
    + of(
        f"{WORKERS}/test_interrupting.py",
        (
            "an endless Loop",
            "the end of the request ends the run",
            "test_an_endless_loop_ends_with_the_time_of_its_request",
        ),
        (
            "an output of 10^14 elements",
            "limits of memory, on CPUs",
            "test_more_memory_than_there_is_costs_that_request_only",
        ),
        (
            "the same, computed at loading",
            "limits of memory, on CPUs",
            "test_more_memory_than_there_is_at_loading_is_no_end_of_anything",
        ),
        ("graphs 10,000 deep, past the check", "the runner's process", "test_graphs_ten_thousand_deep_do_not_load"),
    )
    + of(
        f"{WORKERS}/test_supervisor.py",
        (
            "constants that take minutes to compute at loading, past the check",
            "a time for loading by the size of the files; models that serve come first",
            "test_a_small_file_that_computes_for_minutes_at_loading_is_ended_and_others_serve",
        ),
    )
    + of(
        f"{SANDBOX}/test_runners.py",
        (
            "a job whose model makes 4 GiB of zeros",
            "limits of memory, on CPUs",
            "test_a_job_that_takes_too_much_memory_says_so",
        ),
    )
)

LANGUAGE_MODELS = (
    of(
        f"{MODELS}/test_gguf.py",
        (
            "wrapped sizes, offsets and counts of 2^60 to 2^64, arrays of arrays, texts of 2^40 bytes, bad alignments, "
            "overlapping tensors, names given twice, unknown types: some fifty files",
            "the check at upload: our own reader",
            "test_malformed_and_strange_files_are_refused",
        ),
        ("five million empty texts", CHECK, "test_countless_texts_are_refused_soon"),
        ("every truncation", CHECK, "test_every_truncation_is_refused"),
        (
            "a template that would run a command at the check",
            "it is compiled only, in Jinja's sandbox and the check's cage",
            "test_a_chat_template_is_compiled_and_not_run",
        ),
        ("templates that compile to any depth", CHECK, "test_a_chat_template_that_does_not_compile_is_refused"),
        (
            "templates that compile for ever",
            "the check at upload: a process with limits",
            "test_a_chat_template_that_compiles_for_ever_is_refused",
        ),
    )
    + of(
        f"{GGUF}/test_bounds.py",
        (
            "templates that eat CPU, memory or the stack, or write without end",
            "a process of their own with limits, in the cage",
            "test_a_template_that_loops_or_swells_is_stopped",
        ),
        ("a template that loops for some requests only", "the same", "test_nobody_waits_behind_a_template_that_loops"),
        (
            "a template that reaches for Python's classes",
            "Jinja's sandbox; the cage",
            "test_a_template_cannot_reach_out_of_its_sandbox",
        ),
        ("a template that runs a command by them", "Jinja's sandbox; the cage", "test_a_template_runs_no_command"),
        (
            "files that llama.cpp cannot read, past the check",
            "the runner's process",
            "test_a_file_that_is_no_model_is_told_so",
        ),
    )
    + of(
        f"{GGUF}/test_template_process.py",
        (
            "a runner that was taken over, and tells what renders its template a line without an end",
            "limits of memory and lines",
            "test_a_line_without_an_end_ends_it",
        ),
    )
)

TENSORFLOW = of(
    f"{MODELS}/test_savedmodel.py",
    (
        "operators that read or write files, reached by calls, branches, gradients, names given twice",
        "the check at upload: allowed operators; the cage",
        "test_every_way_to_reach_what_writes_files_is_refused",
    ),
    ("`ReadFile`, `PyFunc`, unknown operators", CHECK, "test_operators_are_looked_at_wherever_they_are"),
    ("a library (`.so`), paths with `..`, links", CHECK, "test_what_is_refused_leaves_nothing"),
    (
        "a million operators, 30,000 functions, attributes 10,000 deep",
        CHECK,
        "test_what_is_made_to_be_slow_or_deep_is_refused_soon",
    ),
) + of(
    f"{MODELS}/test_tflite.py",
    ("custom operators, TensorFlow's own", CHECK, "test_operators_that_no_node_has_are_refused_by_name"),
    ("indices and weights that lie outside, other files", CHECK, "test_what_does_not_fit_together_is_refused"),
    ("a million operators that are one", CHECK, "test_countless_operators_are_refused_soon"),
    ("a list longer than the file", CHECK, "test_a_vector_longer_than_the_file_is_refused"),
    ("any number made wild", CHECK, "test_every_wild_number_is_read_or_refused_and_nothing_else_happens"),
)

SAFETENSORS = of(
    f"{MODELS}/test_safetensors.py",
    (
        "a header cut off, lengths that lie (2^63), 17 MiB of it, names twice, overlaps, gaps, shapes that wrap, "
        "unknown types, other things than texts, JSON millions deep, millions of tensors: some thirty files",
        "the check at upload: our own reader",
        "test_a_header_that_lies_is_refused",
    ),
    ("every truncation", CHECK, "test_every_truncation_is_refused"),
)

OTHERS = (
    of(
        f"{MODELS}/test_models_api.py",
        (
            "a program, a script, HDF5, a web page, an empty file, under a model's name",
            CHECK,
            "test_what_is_no_model_is_refused_with_the_reason",
        ),
        ("an upload that is not what its digest says", "SHA-256", "test_a_wrong_digest_is_refused_with_both"),
        ("a file name with `..`, NUL, 300 characters", "it is shown, never used", "test_a_file_name_is_never_a_path"),
    )
    + of(
        f"{MODELS}/test_asgi.py",
        ("an upload larger than allowed", "the limit", "test_an_upload_over_its_limit_is_refused"),
        ("fewer bytes than announced", "their count", "test_fewer_bytes_than_announced_are_refused"),
        (
            "uploads that would fill the disk",
            "a part of it stays free",
            "test_an_upload_that_would_fill_the_disk_is_refused_and_leaves_nothing",
        ),
        ("a sender that goes away", "nothing is kept", "test_a_sender_that_goes_away_half_way_leaves_nothing"),
    )
    + of(
        f"{MODELS}/test_blobs.py",
        ("a disk that is full", "nothing is kept", "test_a_full_disk_is_said_to_be_full"),
    )
    + of(
        f"{MODELS}/test_admission.py",
        (
            "whatever takes a check more time or memory than it has",
            "limits of the kernel; a check that ended has refused",
            "test_a_check_that_goes_beyond_its_limits_has_refused",
        ),
        ("whatever hangs a check", "the control plane ends it", "test_a_check_that_hangs_is_ended"),
    )
    + of(
        f"{WORKERS}/test_blobs.py",
        ("a file changed on the node's disk after its check", "SHA-256", "test_bytes_that_change_on_disk_are_noticed"),
        (
            "the same, with its size and dates restored",
            "SHA-256; the kernel's date of its last change",
            "test_bytes_that_change_and_keep_their_dates_are_noticed",
        ),
        ("other bytes on the way to the node", "SHA-256", "test_wrong_bytes_are_not_kept"),
    )
    + of(
        f"{WORKERS}/test_workspace.py",
        (
            "a symbolic or hard link, or a pipe, where a job's result should be",
            "the agent takes a file of one name only",
            "test_links_and_pipes_are_no_result",
        ),
        (
            "a hard link to another file in place of weights, on the node's disk or made by the model",
            "the node writes each file anew, and checks it; the cage",
            "test_a_hard_link_to_a_foreign_file_is_no_weights",
        ),
        (
            "1,500 folders within folders, paths too long, folders that may not be listed, left by the model",
            "the node removes them whatever their depth and mode",
            "test_whatever_a_model_leaves_is_removed",
        ),
    )
    + of(
        f"{WORKERS}/test_agent.py",
        (
            "Celery messages: pickles, YAML, unknown tasks, 100 MB",
            "JSON only; a doorbell says nothing that is believed",
            "test_forged_messages_do_no_harm",
        ),
    )
)

GROUPS = (
    Group("Archives", ARCHIVES),
    Group("PyTorch", TORCH),
    Group("ONNX", ONNX),
    Group("GGUF", LANGUAGE_MODELS),
    Group("TensorFlow", TENSORFLOW),
    Group("safetensors", SAFETENSORS),
    Group("Any file, and its way", OTHERS),
)


def table(groups: tuple[Group, ...] = GROUPS) -> str:
    lines = ["| attack | stopped by | test |", "|---|---|---|"]
    for group in groups:
        lines.append(f"| **{group.title}** | | |")
        for attack in group.attacks:
            file, _, function = attack.test.removeprefix("tests/").partition("::")
            lines.append(f"| {attack.what} | {attack.stopped_by} | `{file}` `{function}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
