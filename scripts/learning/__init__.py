"""How the default GenISP and the stand-in detector of the sample set were arrived at."""
