"""The native engine: exact int8 convolutions as LLVM code, compiled when a file is loaded."""
