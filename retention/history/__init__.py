"""The ledger as others see it: keys, what is published, proofs, and checks that trust nobody."""
