"""What one integration is: payloads, exposure facts, DQ bits, coupling. No input or output, only numpy."""
