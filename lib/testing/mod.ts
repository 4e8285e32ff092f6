/**
 * Tests for storage: the contract test kit, with which an author attacks a backend or filter in any
 * test runner, and what tests need around it.
 *
 * @module
 */
export {
  type ContractCase,
  type ContractOptions,
  type ContractResult,
  contractTests,
  runContract,
} from "./contract.ts";
export { type CollectedLog, collectedLog, testClock, testContext } from "./context.ts";
export type { FixedContent } from "./model.ts";
export { type SeededRandom, seededRandom } from "./random.ts";
export type { Openable } from "./trial.ts";
