"""Language models in GGUF files, by llama.cpp: many conversations at once, in one batch per step.

runtime   what the runner talks to            engine     the loop: who gets which place in the next batch
llama     the library's calls, in our words   slots      which tokens each sequence of llama.cpp has computed
request   a request, checked and ready        sampling   how the next token is chosen
writing   tokens to text, stop strings        templates  chat messages to a prompt, in a process of its own
embedding vectors of texts                    schemas    JSON schemas to grammars
grammars  what llama.cpp must not see
"""
