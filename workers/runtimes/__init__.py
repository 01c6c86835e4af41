"""Ways of running model formats. The agent reads only `catalogue`; everything else here lives in runner processes."""
