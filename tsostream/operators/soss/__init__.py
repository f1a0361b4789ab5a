"""NIRISS SOSS: three curved orders that overlap (spec stages 2-3, B.9)."""
