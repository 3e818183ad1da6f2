"""How the built-in models are made: photos drawn by code, and the fits that only ever see those drawings."""
