"""Nodes as the control plane knows them: joining, heartbeats, devices, allocations, placement."""
