/**
 * Stores of immutable objects: a local folder, and whatever speaks S3.
 *
 * @module
 */
export * from "./types.ts";
export { type FolderStoreContext, openFolderStore } from "./folder.ts";
