"""How well photos are found again: what a measurement needs beside the method itself."""
