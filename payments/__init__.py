"""Ledger, escrow and Solana. Empty until the first payment is built; its place in the import order is fixed."""
