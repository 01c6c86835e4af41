"""Language models in GGUF files, by llama.cpp: many conversations at once, in one batch per step.

runtime   what the runner talks to            engine     the loop: who gets which place in the next batch
llama     the library's calls, in our words   slots      which tokens each sequence of llama.cpp has computed
request   a request, checked and ready        sampling   how the next token is chosen
writing   tokens to text, stop strings        templates  chat messages to a prompt, in a process of its own
embedding vectors of texts                    schemas    JSON schemas to grammars
grammars  what llama.cpp must not see
"""

import os

# Before llama.cpp is loaded: how often a thread looks whether the others have come to a barrier before it sleeps. By
# default that takes milliseconds, and where other processes want the cores as well, whole time slices go into waiting
# for a thread that has none: seven tokens a second were seen instead of 80. Alone, a model is 7% slower by this.
# https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
os.environ["GOMP_SPINCOUNT"] = "300"
