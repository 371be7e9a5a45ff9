# Read by CMake where ur-rtde is compiled: its own build clones pybind11 and compiles examples.
set(FETCHCONTENT_SOURCE_DIR_PYBIND11-SRC "${CMAKE_CURRENT_LIST_DIR}" CACHE PATH "" FORCE)
set(EXAMPLES OFF CACHE BOOL "" FORCE)
# pybind11 would have the modules optimized while they are linked, which takes minutes.
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF CACHE BOOL "" FORCE)
