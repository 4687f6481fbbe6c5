"""The native engine: exact int8 convolutions, written as LLVM code and compiled when a file loads."""
