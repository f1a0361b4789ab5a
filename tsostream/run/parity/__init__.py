"""The parity scope: stage 1 of the official pipeline for one segment file after the other, in bounded memory."""
