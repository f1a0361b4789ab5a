"""The parity scope: stage 1 of the official pipeline for one segment file after the other, in bounded memory."""

from tsostream.run.parity.segment import SegmentRun, SegmentSlopes
from tsostream.run.parity.steps import ParitySteps, split_steps

__all__ = ["ParitySteps", "SegmentRun", "SegmentSlopes", "split_steps"]
