"""Every attack on terminals that we know of, what stops it, and the test that tries it.

The table in docs/terminal.md is made from this: `python -m tests.terminal_attacks` prints it."""

from __future__ import annotations

from tests.attacks import Group, of, table
from tests.ssh_attacks import BY_SSH

E2E, TERMINAL, WORKERS = "tests/e2e", "tests/terminal", "tests/workers"
DOORS, LIMITS, LOSSLESS, COMINGS, NODES = (
    f"{E2E}/test_terminal_{name}.py" for name in ("doors", "limits", "lossless", "comings", "nodes")
)
REFUSALS, TEXTS = f"{TERMINAL}/test_refusals.py", f"{TERMINAL}/test_texts.py"
TICKETS, SESSIONS = f"{TERMINAL}/test_tickets_and_audit.py", f"{TERMINAL}/test_sessions.py"
NODE = f"{WORKERS}/test_terminal.py"

GETTING_IN = (
    *of(
        DOORS,
        (
            "a websocket without login, ticket or key; from another, a look-alike or no page, another port or scheme",
            "403 before it opens",
            "test_without_login_or_from_another_page_no_websocket_opens",
        ),
        (
            "a ticket used twice, for another session, by another user, or a made-up one",
            "4403, the same words for all",
            "test_a_ticket_opens_one_session_once_for_one_user_with_one_answer_for_all_else",
        ),
        (
            "who may only watch types, resizes, signals",
            "4403; the shell gets nothing",
            "test_who_watches_sees_everything_and_changes_nothing",
        ),
        (
            "a right is withdrawn while a terminal is open",
            "out within 5 s, processes gone, no way back",
            "test_a_right_that_is_withdrawn_ends_terminal_and_watching_within_five_seconds",
        ),
        (
            "a websocket of a browser that has logged out, or from before the password was changed",
            "4403 within 5 s, no way back",
            "test_a_logout_or_a_new_password_closes_the_websockets_of_that_login_within_five_seconds",
        ),
    ),
    *of(
        TICKETS,
        ("50 use one ticket at once", "one gets in", "test_of_fifty_who_use_a_ticket_at_once_one_is_served"),
        (
            "a ticket after 30 s",
            "the same refusal",
            "test_a_ticket_is_for_one_session_one_user_one_use_and_thirty_seconds",
        ),
    ),
    *of(
        "tests/cyxwiz_site/test_outsiders.py",
        (
            "every address that names a thing, asked by somebody without a right, in every method",
            "403, 404 or 405; nothing changed",
            "test_no_address_gives_or_changes_what_is_somebody_elses",
        ),
        ("every list, asked by an outsider", "it is empty", "test_lists_show_an_outsider_nothing"),
    ),
    *of(
        "tests/architecture/test_views.py",
        (
            "every address, asked by nobody: new ones are closed unless they are said to be public",
            "401, 403 or the login page",
            "test_whoever_is_not_known_gets_nowhere",
        ),
        (
            "every address of websockets, likewise",
            "closed before it opens",
            "test_a_websocket_opens_for_nobody_who_is_not_known",
        ),
    ),
    *of(
        SESSIONS,
        (
            "a node speaks for another node's terminal",
            "404; nothing changed",
            "test_a_node_speaks_for_its_own_terminals_only",
        ),
    ),
)

FLOODS = (
    *of(
        DOORS,
        (
            "a frame of a gibibyte, 10⁵ tiny frames, a message that never ends, input beyond the window",
            "1009 or 4408; under 20 MiB more; others work on",
            "test_floods_of_frames_are_cut_off_and_cost_no_memory",
        ),
        (
            "text, unknown types, cut-off frames, offset 2⁶⁴−1, ACK beyond what was sent",
            "4400; no exception",
            "test_frames_that_are_none_close_the_websocket_and_harm_nobody",
        ),
        (
            "`yes`, `cat /dev/urandom`, a gigabyte",
            "each process grows under 32 MiB; Ctrl-C acts within 500 ms, its screen is quiet in 1 s; others answered",
            "test_floods_of_output_cost_no_memory_and_ctrl_c_acts_at_once",
        ),
    ),
    *of(
        "tests/cyxwiz_site/test_websocket_protocol.py",
        (
            "thousands of frames in one packet",
            "others have their turn after each 170",
            "test_a_flood_of_tiny_frames_leaves_a_turn_to_everybody_else",
        ),
        (
            "pings without end, which no application hears",
            "1000 a second are answered; the rest waits",
            "test_more_frames_than_anybody_needs_wait",
        ),
        ("a message of endless empty fragments", "1009", "test_a_message_has_so_many_fragments"),
        ("a flood that goes on after the end", "is not read; cut off", "test_who_floods_on_after_the_end_is_cut_off"),
    ),
    *of(
        LIMITS,
        (
            "1,000 sizes in a second, through the websocket",
            "20 in a second reach the node, and the last; it stays open",
            "test_a_storm_of_sizes_ends_nothing_and_reaches_the_node_as_a_few_and_the_last",
        ),
        (
            "300 connections that say nothing, or half a request",
            "32 of one address, 256 in all, for 10 s; a login works meanwhile",
            "test_silent_connections_are_few_and_go_and_keep_nobody_out",
        ),
        (
            "websockets without HELLO",
            "likewise, for 5 s",
            "test_websockets_that_say_no_hello_are_few_and_go_and_keep_nobody_out",
        ),
        ("one user opens websockets without end", "600 at one web process", "test_nobody_has_all_the_websockets"),
    ),
    *of(
        NODE,
        ("sizes of 0×0 and 65535×65535", "2×1 to 500×300", "test_sizes_are_clamped_and_told_to_all"),
        (
            "1,000 sizes in a second",
            "the program hears of 20 and of the last",
            "test_a_storm_of_sizes_reaches_the_program_as_a_few_and_the_last",
        ),
        (
            "output that nobody shows or records",
            "the program waits",
            "test_the_pty_is_not_read_further_than_what_was_shown_and_recorded",
        ),
        ("broken frames from Redis", "dropped", "test_broken_frames_do_no_harm"),
    ),
    *of(
        NODES,
        (
            "a node puts a frame of 100 MiB into its stream",
            "its terminal is ended, audited; under 32 MiB more; others go on",
            "test_a_frame_of_100_mib_ends_its_terminal_and_costs_others_nothing",
        ),
        (
            "a node says what no node says: every type, cut off, no JSON, absurd numbers",
            "dropped, a line in the log; no exception; recorder, browser, ssh and command go on",
            "test_what_no_node_says_is_dropped_and_harms_nobody",
        ),
    ),
    *of(
        f"{TERMINAL}/test_recorder.py",
        (
            "a node makes its stream something that is none",
            "its terminal is ended; a line in the log",
            "test_a_stream_that_its_node_made_something_else_ends_the_terminal",
        ),
    ),
    *of(
        LOSSLESS,
        ("200 KiB pasted at once", "in order, once", "test_a_paste_of_200_kib_without_a_newline_arrives_in_order"),
    ),
    *of(
        COMINGS,
        (
            "200 clients go: before HELLO, after it, within output; cut off, in order, with a frame that is too large",
            "no exception",
            "test_who_goes_at_any_moment_and_in_any_way_leaves_no_exception_behind",
        ),
    ),
    *of(
        TEXTS,
        ("NUL, half a character, 10⁶ characters in every text of the API", "400", "test_the_api_refuses_them"),
        ("the same in HELLO", "4400", "test_so_does_the_first_frame"),
    ),
)

ON_THE_NODE = (
    *of(
        NODE,
        (
            "`nohup`, `setsid`, forking twice, deaf and stopped processes",
            "gone within 3 s of the end",
            "test_nothing_that_the_shell_started_outlives_it",
        ),
        (
            "a fork bomb",
            "512 processes; gone within 3 s of the end",
            "test_a_fork_bomb_is_bounded_and_gone_with_the_terminal",
        ),
        (
            "`env`, inherited files, core files",
            "made anew, none, off",
            "test_the_environment_is_made_anew_and_no_file_is_inherited",
        ),
        ("`/proc/*/environ` of others, `ps`", "it sees itself only", "test_an_unprivileged_user_sees_no_secret"),
        (
            "coming back after more than a MiB",
            "the gap is told to the byte; nothing twice",
            "test_who_comes_back_too_late_is_told_exactly_what_is_missing",
        ),
        (
            "late and doubled input, input of a websocket that was cut off",
            "applied once, in order, of the newest only",
            "test_only_the_last_who_attached_to_write_may_write",
        ),
    ),
    *of(
        f"{WORKERS}/test_ssh_shell.py",
        (
            "a machine without an agent shows another host key",
            "it is not spoken to",
            "test_another_host_key_is_never_taken",
        ),
        (
            "keys of this machine's user might open another",
            "only the one that is for it is tried",
            "test_a_login_that_is_refused_says_so_and_tries_no_other_key",
        ),
    ),
    *of(
        f"{TERMINAL}/test_ssh_nodes.py",
        (
            "users have the control plane connect to addresses",
            "only staff",
            "test_only_staff_enrol_or_have_us_ask_an_address",
        ),
        (
            "a changed host key while terminals are open",
            "they end; blocked until an owner enrols it",
            "test_another_host_key_blocks_it_until_an_owner_enrols_that",
        ),
    ),
)

IN_THE_BROWSER = (
    *of(
        f"{E2E}/test_terminal_playback.py",
        (
            "a recording has a size of 65535×65535",
            "the page plays it as 500×300",
            "test_sizes_that_no_screen_can_draw_are_not_drawn",
        ),
    ),
    *of(
        f"{E2E}/test_terminal_pages.py",
        (
            "programs print titles with markup, links to scripts, OSC 52",
            "they stay text; a click opens nothing; the clipboard stays as it was",
            "test_what_programs_print_stays_text",
        ),
        (
            "a thousand questions at once (DA, DECRQSS), whose answers are typed",
            "all answered, in order, once",
            "test_a_storm_of_questions_is_answered_once_and_by_the_owner_only",
        ),
        (
            "the same questions while somebody watches",
            "the screen of who watches answers nothing",
            "test_a_storm_of_questions_is_answered_once_and_by_the_owner_only",
        ),
        (
            "the same questions, replayed to a page that was reloaded",
            "no second answer is typed",
            "test_a_reloaded_page_shows_the_same_and_answers_no_old_question",
        ),
        (
            "who watches types into the page",
            "it goes nowhere",
            "test_a_watcher_sees_all_and_types_nothing",
        ),
    ),
    *of(
        f"{TERMINAL}/test_pages.py",
        (
            "the page in a frame of another, scripts in it, anything loaded from elsewhere",
            "the content security policy",
            "test_the_pages_say_what_a_browser_may_load",
        ),
        (
            "forms sent from other pages, links that act",
            "403; 405",
            "test_no_secret_is_in_a_page_and_nothing_is_done_by_following_a_link",
        ),
        (
            "a login that leads to another site",
            "it leads here",
            "test_who_is_no_staff_signs_in_comes_where_they_wanted_and_out_again",
        ),
        ("markup in a reason", "it stays text", "test_the_owner_opens_comes_back_and_ends"),
    ),
)

TRACES = (
    *of(
        REFUSALS,
        (
            "opening, ending, reading without a right",
            "audited",
            "test_who_may_not_open_end_read_or_manage_is_in_the_audit",
        ),
        ("the same in a loop", "a row a minute", "test_a_loop_of_refusals_has_a_row_a_minute_which_counts_the_others"),
    ),
    *of(
        LIMITS,
        (
            "tickets, tokens, keys, passwords looked for in logs, tables, Redis, recordings",
            "none is there",
            "test_no_secret_is_in_a_log_a_table_redis_or_a_recording",
        ),
    ),
    *of(
        DOORS,
        ("secrets on command lines, in addresses", "none", "test_no_secret_stands_in_a_command_line_or_an_address"),
    ),
    *of(
        TICKETS,
        (
            "characters cut anywhere, invalid bytes, OSC 52, NUL",
            "the recording is valid JSON, the client gets them exactly",
            "test_invalid_bytes_are_replaced_and_escape_sequences_kept",
        ),
        (
            "`UPDATE` and `DELETE` of audit events",
            "PostgreSQL refuses",
            "test_the_database_refuses_to_change_audit_events",
        ),
        (
            "a row changed, removed, put in",
            "`verify_audit` names it",
            "test_the_chain_names_the_row_that_was_tampered_with",
        ),
        (
            "a recording changed, cut, emptied, added to",
            "`verify_audit` names it",
            "test_verify_audit_finds_a_recording_that_was_changed",
        ),
        (
            "a recording and its session's row forged or deleted together",
            "`verify_audit` goes by the audit and names it",
            "test_verify_audit_believes_the_audit_and_not_the_row",
        ),
    ),
    *of(
        f"{TERMINAL}/test_recordings.py",
        (
            "what was shown is to go with its user, who is removed",
            "session, audit and recording stay, for `RECORDING_DAYS`",
            "test_that_of_a_user_who_was_removed_stays_the_node_owners_for_its_time",
        ),
        (
            "a session's row and the recording's file set back, so that it is deleted early",
            "`verify_audit` goes by the audit and names it",
            "test_one_whose_row_and_file_were_set_back_was_deleted_too_early",
        ),
    ),
)

GROUPS = (
    Group("Getting in", GETTING_IN),
    Group("Floods and nonsense", FLOODS),
    Group("On the node", ON_THE_NODE),
    Group("By ssh", BY_SSH),
    Group("In the browser", IN_THE_BROWSER),
    Group("Traces", TRACES),
)

if __name__ == "__main__":
    print(table(GROUPS))
