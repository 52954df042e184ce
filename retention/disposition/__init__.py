"""Disposition: what has outlived its retention is proposed, reviewed, signed by two people, and done, with proof.

proposing   what is due becomes a plan; notices before it
reviewing   every item decided, stage by stage; worded for the signatures; lapse and term
execution   what was signed is checked again and done; resumed after a crash
transfers   what is handed on: the bag, its receiver's answer, or none
rejected    what was rejected from quarantine
erasure     keys, bytes, rows; tombstones
certificate what was done, signed
evidence    certificates and receivers' answers as records of their own
plans       the values, and how a plan stands
"""
