/**
 * Ranks by Zipf's law: rank k of n comes with a frequency in proportion to 1 / k^s. Drawn by
 * rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone
 * discrete distributions", 1996): no table, and about one draw a rank, however large n is.
 *
 * @module
 */

/** Draws ranks. */
export class Zipf {
  readonly #count: number;
  readonly #exponent: number;
  readonly #first: number;
  readonly #last: number;
  readonly #sure: number;

  /** `count` ranks, 1 or more; the exponent is above 0. */
  constructor(count: number, exponent: number) {
    this.#count = count;
    this.#exponent = exponent;
    this.#first = this.#integral(1.5) - 1;
    this.#last = this.#integral(count + 0.5);
    this.#sure = 2 - this.#inverse(this.#integral(2.5) - 2 ** -exponent);
  }

  /** A rank from 0, the most frequent one, to count - 1. `draw` gives numbers from 0 up to, not including, 1. */
  rank(draw: () => number): number {
    for (;;) {
      const area = this.#last + draw() * (this.#first - this.#last);
      const x = this.#inverse(area);
      const rank = Math.min(this.#count, Math.max(1, Math.round(x)));
      if (rank - x <= this.#sure) return rank - 1;
      if (area >= this.#integral(rank + 0.5) - rank ** -this.#exponent) return rank - 1;
    }
  }

  /** The integral of x^-s. */
  #integral(x: number): number {
    const log = Math.log(x);
    const t = (1 - this.#exponent) * log;
    return Math.abs(t) > 1e-8 ? Math.expm1(t) / t * log : log;
  }

  #inverse(area: number): number {
    const t = Math.max(-1, area * (1 - this.#exponent));
    return Math.exp(Math.abs(t) > 1e-8 ? Math.log1p(t) / t * area : area);
  }
}
