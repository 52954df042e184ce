"""Every table that the events tell, each once."""

from __future__ import annotations

from retention.verification import capture, decisions, facts

PROJECTIONS = (*capture.PROJECTIONS, *decisions.PROJECTIONS, *facts.PROJECTIONS)
