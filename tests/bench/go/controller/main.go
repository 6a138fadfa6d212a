// A minimal controller-runtime controller that makes the operator's writes for a TrainingJob up to its Job: a dry run
// of the Job, ConfigMap, Service, Job, the status "is starting", an Event, and the status "0 of n workers run". It is
// what the operator is measured against; it decides nothing else.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"golang.org/x/time/rate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// As the operator's queues and its recorder of Events have it.
const (
	workersOfQueue = 8
	eventRate      = 10
	eventBurst     = 50
	mostWaiting    = 1000
)

type reconciler struct {
	client.Client
	events chan *eventsv1.Event
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var job TrainingJob
	if err := r.Get(ctx, request.NamespacedName, &job); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if job.DeletionTimestamp != nil || job.Status.Phase == "Succeeded" || job.Status.Phase == "Failed" {
		return ctrl.Result{}, nil
	}
	var made batchv1.Job
	err := r.Get(ctx, types.NamespacedName{Namespace: job.Namespace, Name: attemptName(&job)}, &made)
	switch {
	case err == nil:
		return ctrl.Result{}, r.writeStatus(ctx, &job, fmt.Sprintf("attempt 1: 0 of %d workers run", job.Spec.Workers.Replicas))
	case !apierrors.IsNotFound(err):
		return ctrl.Result{}, err
	case job.Status.Attempt != nil:
		// The cache has yet to hear of the Job that is made; its event brings the next pass.
		return ctrl.Result{}, nil
	}
	if err := r.start(ctx, &job); err != nil {
		return ctrl.Result{}, err
	}
	if err := r.writeStatus(ctx, &job, "attempt 1 is starting: the first attempt"); err != nil {
		return ctrl.Result{}, err
	}
	r.tell(&job, "AttemptStarted", "attempt 1: the first attempt")
	return ctrl.Result{}, nil
}

func (r *reconciler) start(ctx context.Context, job *TrainingJob) error {
	config, err := configMap(job)
	if err != nil {
		return err
	}
	work, err := workers(job)
	if err != nil {
		return err
	}
	// Into a copy: the server's answer is written over what is sent.
	if err := r.Create(ctx, work.DeepCopy(), client.DryRunAll); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	for _, child := range []client.Object{config, service(job), work} {
		if err := r.Create(ctx, child); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (r *reconciler) writeStatus(ctx context.Context, job *TrainingJob, message string) error {
	before := job.DeepCopyObject().(*TrainingJob)
	status := &job.Status
	status.Phase, status.ObservedGeneration = "Starting", job.Generation
	condition := func(kind string, value metav1.ConditionStatus) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: value, Reason: "Starting", Message: message, ObservedGeneration: job.Generation,
		})
	}
	condition("Succeeded", metav1.ConditionFalse)
	condition("Reconciling", metav1.ConditionTrue)
	status.Attempt = &Attempt{Number: 1, JobName: attemptName(job)}
	status.Restarts = &Restarts{}
	if status.StartTime == nil {
		status.StartTime = ptr.To(metav1.Now())
	}
	status.Storage = &Storage{
		URI: job.Spec.Storage.URI, Endpoint: "http://store.invalid:7070", Region: "us-east-1", SecretRef: job.Spec.Storage.SecretRef,
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if data, err := patch.Data(job); err != nil {
		return err
	} else if !bytes.Contains(data, []byte(`"status"`)) {
		return nil // the patch holds the resourceVersion alone
	}
	return r.Status().Patch(ctx, job, patch)
}

// tell notes an Event down, as the operator's recorder does: another goroutine writes it, at a bounded rate.
func (r *reconciler) tell(job *TrainingJob, reason, note string) {
	digest := sha256.Sum256([]byte(string(job.UID) + reason + note))
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: job.Namespace, Name: job.Name + "." + hex.EncodeToString(digest[:])[:16]},
		EventTime:           metav1.NowMicro(),
		ReportingController: "modelwright.dev/operator", ReportingInstance: "bench",
		Regarding: corev1.ObjectReference{
			APIVersion: groupVersion.String(), Kind: "TrainingJob", Namespace: job.Namespace, Name: job.Name, UID: job.UID,
		},
		Type: "Normal", Reason: reason, Action: "Reconcile", Note: note,
	}
	select {
	case r.events <- event:
	default:
	}
}

func (r *reconciler) writeEvents(ctx context.Context) error {
	limiter := rate.NewLimiter(eventRate, eventBurst)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-r.events:
			if limiter.Wait(ctx) != nil {
				return nil
			}
			_ = r.Create(ctx, event)
		}
	}
}

func byLabel(_ context.Context, child client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: child.GetNamespace(), Name: child.GetLabels()[nameLabel]}}}
}

func bySource(_ context.Context, version client.Object) []reconcile.Request {
	name := version.(*ModelVersion).Spec.Source.TrainingJobRef.Name
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: version.GetNamespace(), Name: name}}}
}

func run() error {
	ctrl.SetLogger(klog.Background())
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, addTypes} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	ours, err := labels.NewRequirement(nameLabel, selection.Exists, nil)
	if err != nil {
		return err
	}
	selected := cache.ByObject{Label: labels.NewSelector().Add(*ours)}
	config := ctrl.GetConfigOrDie()
	// client-go's default, 20 requests per second, would be all that is measured.
	config.QPS = -1
	config.UserAgent = "bench-controller"
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       server.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              "bench-controller",
		LeaderElectionNamespace:       os.Getenv("MODELWRIGHT_NAMESPACE"),
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       ptr.To(5 * time.Second),
		Cache:                         cache.Options{ByObject: map[client.Object]cache.ByObject{&batchv1.Job{}: selected, &corev1.Pod{}: selected}},
	})
	if err != nil {
		return err
	}
	one := &reconciler{Client: mgr.GetClient(), events: make(chan *eventsv1.Event, mostWaiting)}
	if err := mgr.Add(manager.RunnableFunc(one.writeEvents)); err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&TrainingJob{}).
		Owns(&batchv1.Job{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(byLabel)).
		Watches(&ModelVersion{}, handler.EnqueueRequestsFromMapFunc(bySource)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workersOfQueue}).
		Complete(one)
	if err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
