declare module "*.toml" {
  const face: { readonly points: readonly (readonly number[])[]; readonly std: readonly number[] };
  export default face;
}
