/**
 * Where memory of this process lies, for calls that take addresses in structures.
 *
 * @module
 */

/** V8 does not move the memory of a buffer as long as there is the buffer. */
const addresses = new WeakMap<ArrayBuffer, number>();
let lastBuffer: ArrayBuffer | null = null, lastAddress = 0;

/** Where the memory of a buffer begins. Keep the buffer for as long as the address is in use. */
export function addressOf(buffer: ArrayBuffer): number {
  if (buffer === lastBuffer) return lastAddress;
  let address = addresses.get(buffer);
  if (address === undefined) {
    address = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(buffer))));
    addresses.set(buffer, address);
  }
  lastBuffer = buffer;
  lastAddress = address;
  return address;
}
