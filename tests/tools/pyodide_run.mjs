// Runs pyodide_cases.py in Pyodide, for pyodide_run.py:
//
//     node pyodide_run.mjs PYODIDE WHEELS
//
// PYODIDE is the folder of npm's package; WHEELS has micropip's wheel, which is unpacked, and ours,
// which micropip installs. The status is how many cases failed.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [home, wheels] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(path.join(home, "pyodide.mjs")));
const pyodide = await loadPyodide();
const names = fs.readdirSync(wheels);
const bytes = (file) => new Uint8Array(fs.readFileSync(file));
for (const name of names.filter((name) => name.startsWith("micropip-"))) {
  pyodide.unpackArchive(bytes(path.join(wheels, name)), "wheel");
}
const ours = names.find((name) => name.startsWith("asgibridge-"));
pyodide.FS.writeFile(`/tmp/${ours}`, bytes(path.join(wheels, ours)));
const cases = path.join(path.dirname(fileURLToPath(import.meta.url)), "pyodide_cases.py");
pyodide.FS.writeFile("/home/pyodide/pyodide_cases.py", bytes(cases));
process.exitCode = await pyodide.runPythonAsync(`
import micropip, sys
await micropip.install("emfs:/tmp/${ours}", deps=False)
print(f"Pyodide, Python {sys.version.split()[0]}")
import pyodide_cases
await pyodide_cases.main()
`);
