// Expressions and the values made of them, by GitHub's own evaluator.
import "./json.mjs";

const { Evaluator, Lexer, Parser, data } = await import("@actions/expressions");
const { isBasicExpression, isMapping, isScalar, isSequence } = await import("@actions/workflow-parser");

const STATUS = ["success", "failure", "cancelled", "always"];

// `contexts` are plain objects by name; `status` holds success, failure and cancelled as booleans.
export function evaluate(expression, contexts, status = {}) {
  const functions = new Map(
    STATUS.map((name) => [
      name,
      { name, minArgs: 0, maxArgs: 0, call: () => new data.BooleanData(name === "always" || !!status[name]) },
    ]),
  );
  functions.set("hashfiles", { name: "hashFiles", minArgs: 1, maxArgs: 255, call: () => new data.StringData("") });
  const tree = new Parser(new Lexer(expression).lex().tokens, Object.keys(contexts), [...functions.values()]).parse();
  const dictionary = JSON.parse(JSON.stringify(contexts), data.reviver);
  return JSON.parse(JSON.stringify(new Evaluator(tree, dictionary, functions).evaluate(), data.replacer));
}

// GitHub's truth: null, false, 0 and the empty string are false.
export const holds = (token, contexts, status) => !token || !!evaluate(token.expression, contexts, status);

// What a token of the parser stands for, its expressions evaluated.
export function value(token, contexts) {
  if (token === undefined) return undefined;
  if (isBasicExpression(token)) return evaluate(token.expression, contexts);
  if (isMapping(token)) {
    const entries = Array.from({ length: token.count }, (_, index) => token.get(index));
    return Object.fromEntries(entries.map((entry) => [entry.key.toString(), value(entry.value, contexts)]));
  }
  if (isSequence(token)) return Array.from({ length: token.count }, (_, index) => value(token.get(index), contexts));
  if (!isScalar(token)) throw new Error(`no value for ${token.toString()}`);
  return token.value ?? null;
}

// The same for plain YAML, which a composite action is.
export function filled(text, contexts) {
  return text.replace(/\$\{\{(.*?)\}\}/gs, (_, expression) => shown(evaluate(expression, contexts)));
}

// How GitHub writes a value into a text.
export const shown = (one) =>
  one === null || one === undefined ? "" : typeof one === "object" ? JSON.stringify(one) : String(one);
