"""The OpenAI API's bodies: `requests` read into what a runner is asked, `answers` as its clients expect them.

Source: OpenAI's API reference (chat completions, completions, embeddings, models, errors).
"""
