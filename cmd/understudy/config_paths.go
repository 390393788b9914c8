package main

import "path/filepath"

// paths are all names of files and folders in a configuration.
func (c *Config) paths() []*string {
	paths := []*string{&c.DataDir, &c.TrustedRoot}
	list := func(names []string) {
		for i := range names {
			paths = append(paths, &names[i])
		}
	}
	if c.TUF != nil {
		paths = append(paths, &c.TUF.Root)
	}
	if t := c.Trust; t != nil {
		paths = append(paths, &t.Repository, &t.SnapshotKey, &t.TimestampKey, &t.SigningKey, &t.PassphraseFile)
	}
	if w := c.Witness; w != nil {
		paths = append(paths, &w.LogList)
		list(w.Keys)
		list(w.MirrorKeys)
		for i := range w.Logs {
			paths = append(paths, &w.Logs[i].PublicKey)
		}
	}
	if a := c.Archive; a != nil {
		paths = append(paths, &a.Key)
		if a.TSA != nil {
			paths = append(paths, &a.TSA.Certificates)
		}
		for i := range a.Destinations {
			paths = append(paths, &a.Destinations[i].Directory)
			if s := a.Destinations[i].S3; s != nil {
				paths = append(paths, &s.CredentialsFile)
			}
		}
	}
	if p := c.Private; p != nil {
		paths = append(paths, &p.PassphraseFile, &p.Proposals.Key)
		if p.V1 != nil {
			paths = append(paths, &p.V1.Key)
		}
		if p.V2 != nil {
			paths = append(paths, &p.V2.Key, &p.V2.MLDSAKey)
		}
		if p.WitnessPolicy != nil {
			paths = append(paths, &p.WitnessPolicy.File)
		}
		if t := p.Access.TLS; t != nil {
			paths = append(paths, &t.Certificate, &t.Key, &t.ClientCA)
		}
	}
	if o := c.Outage; o != nil {
		paths = append(paths, &o.ReportKey)
		if o.Webhook != nil {
			paths = append(paths, &o.Webhook.SecretFile)
		}
	}
	if v := c.Verification; v != nil {
		for i := range v.Policies {
			list(v.Policies[i].PublicKeys)
		}
		for i := range v.HighRisk {
			paths = append(paths, &v.HighRisk[i].PublicKey)
		}
	}
	for i := range c.Logs {
		log := &c.Logs[i]
		paths = append(paths, &log.PublicKey)
		list(log.PublicKeys)
		for j := range log.Watch {
			paths = append(paths, &log.Watch[j].PublicKey)
		}
	}
	return paths
}

// relativeTo returns path as it is from dir. A key that stands there itself, or in a key management
// service, stays.
func relativeTo(dir, path string) string {
	if path == "" || filepath.IsAbs(path) || isInlineKey(path) || isKMS(path) {
		return path
	}
	return filepath.Join(dir, path)
}
