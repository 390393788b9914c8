// Command fileserver serves a folder as operators of Rekor v2 do: ADDRESS PREFIX FOLDER. It is a process of
// its own so that tests can stop it.
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "fileserver: want ADDRESS PREFIX FOLDER")
		os.Exit(2)
	}
	address, prefix, folder := os.Args[1], os.Args[2], os.Args[3]
	fmt.Fprintln(os.Stderr, "fileserver:", http.ListenAndServe(address, http.StripPrefix(prefix, http.FileServer(http.Dir(folder)))))
	os.Exit(1)
}
