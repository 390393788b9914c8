// Verifies a bundle with the trust material of a TUF repository. The test that runs it names
// the six arguments.
import { readFileSync } from 'node:fs'
import { verify } from 'sigstore'

const [tufMirrorURL, tufRootPath, tufCachePath, bundle, certificateIssuer, certificateIdentityURI] = process.argv.slice(2)
await verify(JSON.parse(readFileSync(bundle)), {
  tufMirrorURL,
  tufRootPath,
  tufCachePath,
  tufForceCache: false,
  certificateIssuer,
  certificateIdentityURI,
})
