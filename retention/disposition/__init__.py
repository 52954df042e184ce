"""Disposition: what has outlived its retention is proposed, reviewed, signed by two people, and done, with proof.

proposing   what is due becomes a plan; notices before it
reviewing   every item decided, stage by stage; worded for the signatures; lapse and term
execution   what was signed is checked again and done; resumed after a crash
certificate what was done, signed, as a record of its own
plans       the values, and how a plan stands
"""
