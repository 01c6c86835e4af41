# llama.cpp without its `common` library, which only its own programs and llava use: half of the time to compile.
# `make` hands this to CMake while pip builds llama-cpp-python, whose own CMakeLists.txt always asks for it.
set(LLAMA_BUILD_COMMON OFF)
