"""Ask a tuned model: engines behind one interface, and the processes that hold them.

`engine` is the interface; `transformers_engine` answers in this process, `vllm_engine` through a vLLM server, which
`supervisor` starts and keeps.
"""
