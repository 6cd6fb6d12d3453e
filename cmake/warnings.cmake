# One set of warnings for all C of ours; C++ takes what makes sense there.
add_library(mlff_warnings INTERFACE)
target_compile_options(mlff_warnings INTERFACE
  -Wall -Wextra -Wshadow -Wpointer-arith -Wcast-qual -Wno-psabi
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
  $<$<BOOL:${MLFF_WERROR}>:-Werror>)
