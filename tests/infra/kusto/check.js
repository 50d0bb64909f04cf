// Reads {tables: {name: columns}, queries: [text]} as JSON, and writes for each query what Microsoft's parser says.
"use strict";
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");

const { tables, queries } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const { GlobalState, KustoCode, Symbols } = Kusto.Language;
const symbols = Object.entries(tables).map(([name, columns]) => Symbols.TableSymbol.From(columns).WithName(name));
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.$ctor2("workspace", null, symbols));

function messages(query) {
  const found = KustoCode.ParseAndAnalyze(query, globals).GetDiagnostics();
  return Array.from({ length: found.Count }, (_, i) => found.getItem(i).Message);
}
process.stdout.write(JSON.stringify(queries.map(messages)));
