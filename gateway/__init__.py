"""The inference front door: Open Inference Protocol in, frames out. No ORM, DRF or thread on the way of a request."""
