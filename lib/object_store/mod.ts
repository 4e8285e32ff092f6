/**
 * Stores of immutable objects: a local folder, and whatever speaks S3.
 *
 * @module
 */
export * from "./types.ts";
export { type FolderStoreContext, openFolderStore } from "./folder.ts";
export { probeStore } from "./probe.ts";
export {
  type AddressStyle,
  connectS3,
  type CredentialContext,
  type CredentialOptions,
  type S3Context,
  type S3Credentials,
  type S3Options,
} from "./s3/mod.ts";
export { type PatienceContext, type PatientStore, patientStore } from "./patience.ts";
