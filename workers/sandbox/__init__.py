"""The cage that a runner closes around itself before it touches a model. docs/security.md says what each level stops.

`cage` puts the parts together: `limits`, `namespaces`, `landlock`, `seccomp`, each one thing that the kernel offers.
`levels` finds out, by attempts in a process of its own (`probes`), which level this machine really gives.
"""
