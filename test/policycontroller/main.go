// Command policycontroller does with trust material what Sigstore's policy-controller does, with
// its own code. It reads a TrustRoot (YAML) from standard input, as strictly as the controller's
// admission webhook, gives it the defaults, validates it, and has the controller's reconciler turn
// it into the keys that policies with a trustRootRef use. The cluster is client-go's fake. With
// -tuf-mirror and -tuf-root, which are flags of the controller, too, it fetches instead what
// policies without a trustRootRef use.
//
// It prints the Rekor logs, one a line: log ID and URL. When anything refuses it says so and exits
// with 1.
//
// It has a module of its own because policy-controller needs other versions than we do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	sigstoretuf "github.com/sigstore/sigstore/pkg/tuf"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	fakekube "knative.dev/pkg/client/injection/kube/client/fake"
	"knative.dev/pkg/controller"
	"knative.dev/pkg/injection"
	_ "knative.dev/pkg/injection/clients/namespacedkube/informers/core/v1/configmap/fake"
	"knative.dev/pkg/logging"
	"knative.dev/pkg/reconciler"
	"knative.dev/pkg/system"
	"sigs.k8s.io/yaml"

	"github.com/sigstore/policy-controller/pkg/apis/config"
	"github.com/sigstore/policy-controller/pkg/apis/policy/v1alpha1"
	fakepolicy "github.com/sigstore/policy-controller/pkg/client/injection/client/fake"
	fakeinformer "github.com/sigstore/policy-controller/pkg/client/injection/informers/policy/v1alpha1/trustroot/fake"
	"github.com/sigstore/policy-controller/pkg/reconciler/trustroot"
	"github.com/sigstore/policy-controller/pkg/tuf"
)

func main() {
	mirror := flag.String("tuf-mirror", "", "`URL` of a TUF repository")
	root := flag.String("tuf-root", "", "`file` with a root of it")
	flag.Parse()
	var err error
	if *mirror != "" {
		err = fetch(*mirror, *root, os.Stdout)
	} else {
		err = convert(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "policycontroller:", err)
		os.Exit(1)
	}
}

// fetch prints the logs of a repository's trusted root. Its cache is in $TUF_ROOT, or else in the
// home directory.
func fetch(mirror, root string, out io.Writer) error {
	data, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	if err := sigstoretuf.Initialize(context.Background(), mirror, data); err != nil {
		return err
	}
	trusted, err := tuf.GetTrustedRoot(context.Background())
	if err != nil {
		return err
	}
	for id, l := range trusted.RekorLogs() {
		fmt.Fprintln(out, id, l.BaseURL)
	}
	return nil
}

// convert prints the logs of a TrustRoot.
func convert(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	tr := &v1alpha1.TrustRoot{}
	if err := yaml.UnmarshalStrict(data, tr); err != nil {
		return err
	}
	if want := tr.GetGroupVersionKind(); tr.GroupVersionKind() != want {
		return fmt.Errorf("it is a %v, not a %v", tr.GroupVersionKind(), want)
	}
	// The API server would refuse it.
	if problems := validation.IsDNS1123Subdomain(tr.Name); len(problems) > 0 {
		return fmt.Errorf("metadata.name: %s", strings.Join(problems, "; "))
	}
	keys, err := reconcile(tr)
	if err != nil {
		return err
	}
	for _, l := range keys.GetTlogs() {
		// The controller keeps a log ID as its hexadecimal digits.
		fmt.Fprintf(out, "%s %s\n", l.GetLogId().GetKeyId(), l.GetBaseUrl())
	}
	return nil
}

// reconcile returns what the controller writes into its ConfigMap for a TrustRoot.
func reconcile(tr *v1alpha1.TrustRoot) (*config.SigstoreKeys, error) {
	if err := os.Setenv(system.NamespaceEnvKey, "cosign-system"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(logging.WithLogger(context.Background(), zap.NewNop().Sugar()))
	defer cancel()
	tr.SetDefaults(ctx)
	if err := tr.Validate(ctx); err != nil {
		return nil, err
	}

	ctx = controller.WithEventRecorder(ctx, record.NewFakeRecorder(100))
	ctx, _ = injection.Fake.SetupInformers(ctx, &rest.Config{})
	if _, err := fakepolicy.Get(ctx).PolicyV1alpha1().TrustRoots().Create(ctx, tr, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if err := fakeinformer.Get(ctx).Informer().GetIndexer().Add(tr); err != nil {
		return nil, err
	}
	r := trustroot.NewController(ctx, nil).Reconciler
	leader, ok := r.(reconciler.LeaderAware)
	if !ok {
		return nil, errors.New("the reconciler cannot be made the leader")
	}
	if err := leader.Promote(reconciler.UniversalBucket(), nil); err != nil {
		return nil, err
	}
	if err := r.Reconcile(ctx, tr.Name); err != nil {
		return nil, err
	}
	cm, err := fakekube.Get(ctx).CoreV1().ConfigMaps(system.Namespace()).Get(ctx, config.SigstoreKeysConfigName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	all, err := config.NewSigstoreKeysFromConfigMap(cm)
	if err != nil {
		return nil, err
	}
	return all.SigstoreKeys[tr.Name], nil
}
