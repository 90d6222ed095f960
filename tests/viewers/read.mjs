// What test-results-parser takes from JUnit files, as JSON: the failures of each testsuite, in its order.
import { parse } from "test-results-parser";

const { suites } = parse({ type: "junit", files: process.argv.slice(2) });
const failures = (suite) =>
  suite.cases
    .filter(({ status }) => status === "FAIL")
    .map(({ name, failure, stack_trace }) => ({ name, message: failure, text: stack_trace }));
console.log(JSON.stringify(Object.fromEntries(suites.map((suite) => [suite.name, failures(suite)]))));
