"""Attacks on the ssh gateway: a part of `terminal_attacks`."""

from __future__ import annotations

from tests.attacks import of

E2E = "tests/e2e"
SSH_DOORS = f"{E2E}/test_terminal_ssh_doors.py"
BY_SSH = (
    *of(
        SSH_DOORS,
        (
            "no login, a password, a channel before the login (CVE-2018-7750)",
            "refused",
            "test_who_has_not_logged_in_gets_no_channel",
        ),
        (
            "a key that is shown and nothing signed with it",
            "it opens nothing and leaves no trace",
            "test_a_key_that_is_only_shown_opens_nothing_and_leaves_no_trace",
        ),
        (
            "one key after another; names as `a,root+box`",
            "three tries; the same words for all",
            "test_three_tries_and_no_other_name",
        ),
        (
            "an address that tries keys for ever",
            "after 20 connections in vain it waits for a minute; others get in",
            "test_who_tries_keys_for_ever_is_not_heard_any_more",
        ),
        (
            "`-R`, `-A`, `-X`, sftp, `LD_PRELOAD` and other variables",
            "refused; the command runs as it would",
            "test_one_shell_or_command_and_nothing_else",
        ),
        (
            "`-L`, `-D`",
            "refused; the shell goes on",
            "test_forwarded_connections_are_refused_while_the_session_goes_on",
        ),
        ("a second channel, a second command", "refused", "test_a_second_channel_is_refused"),
        (
            "old algorithms, a packet of a gibibyte",
            "no agreement; hung up on, under 20 MiB more",
            "test_neither_old_algorithms_nor_a_packet_of_gibibytes",
        ),
        (
            "a flood of packets before the login",
            "hung up on after 100, and counted as a failed login; others log in",
            "test_who_floods_before_the_login_is_hung_up_on_and_waits_like_who_failed",
        ),
        ("a first line that never ends", "hung up on after 256 KiB", "test_a_first_line_without_end_is_not_read"),
        (
            "a flood of packets after the login",
            "1000 small ones a second are read, the rest waits; others log in",
            "test_who_floods_after_the_login_waits_and_nobody_else",
        ),
        (
            "300 connections that say nothing",
            "32 of one address, 256 in all, for 10 s; a login works meanwhile",
            "test_who_only_connects_is_few_and_soon_gone_while_others_log_in",
        ),
    ),
    *of(
        f"{E2E}/test_terminal_ssh.py",
        (
            "a right or a key is withdrawn while a terminal is open",
            "out within 5 s, processes gone, no way back",
            "test_who_may_not_any_more_is_out_within_five_seconds",
        ),
        (
            "a client that takes nothing, `yes`",
            "each process grows under 32 MiB; others are answered",
            "test_ctrl_c_acts_at_once_and_a_stalled_client_costs_no_memory",
        ),
    ),
)
