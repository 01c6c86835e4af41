"""What the control plane and the nodes say to each other. Plain Python: no I/O, no Django."""

VERSION = "0.1.0"
