// Types of the parameters, and ids of the built-in roles that are assigned. The other files import from here.

@export()
@description('A model deployment of an account that this template creates.')
type deployment = {
  @description('Name of the deployment.')
  @minLength(2)
  @maxLength(64)
  name: string

  @description('Name of the model; callers use it unless `alias` is given.')
  model: string

  @description('Name that callers use, if it is not the name of the model.')
  alias: string?

  @description('Version of the model.')
  version: string

  @description('SKU: how the deployment is billed and where it is processed.')
  sku:
    | 'Standard'
    | 'GlobalStandard'
    | 'DataZoneStandard'
    | 'ProvisionedManaged'
    | 'GlobalProvisionedManaged'
    | 'DataZoneProvisionedManaged'

  @description('Thousands of tokens per minute, or provisioned throughput units.')
  @minValue(1)
  capacity: int

  @description('Content filter of the account. Default: Azure\'s.')
  raiPolicyName: string?

  @description('Standard deployment of the same account that serves what a provisioned one cannot.')
  spilloverDeploymentName: string?
}

@export()
@description('An Azure OpenAI account that this template creates. Its provisioned deployments become a separate backend.')
type account = {
  @description('Name of the backend, unique. Lower case, because it becomes a part of the endpoint.')
  @minLength(2)
  @maxLength(32)
  name: string

  @description('Azure region.')
  region: string

  @description('Data zone of the region, for the records.')
  dataZone: ('eu' | 'us')?

  @description('Lower goes first. Default: 1.')
  @minValue(0)
  @maxValue(100)
  priority: int?

  @description('Priority of the provisioned deployments. Default: 0, so that paid capacity is used first.')
  @minValue(0)
  @maxValue(100)
  provisionedPriority: int?

  @description('Share of the calls within a priority. Default: 1.')
  @minValue(1)
  @maxValue(100)
  weight: int?

  @description('Model deployments. Azure creates those of one account one after the other.')
  @minLength(1)
  deployments: deployment[]
}

@export()
@description('An existing Azure OpenAI account, in any group and subscription of the tenant.')
type existingAccount = {
  @description('Name of the backend, unique.')
  @minLength(1)
  @maxLength(64)
  name: string

  @description('Resource id of the account. The deployer must be allowed to assign roles on it.')
  resourceId: string

  @description('Endpoint. Default: https://NAME.openai.azure.com with the name of the resource.')
  endpoint: string?

  @description('Azure region.')
  region: string

  @description('Data zone of the region, for the records.')
  dataZone: ('eu' | 'us')?

  @description('Model that callers ask for: name of the deployment.')
  models: {
    *: string
  }

  @description('Default: standard.')
  kind: ('standard' | 'provisioned')?

  @description('API version for callers of /v1. Default: v1.')
  apiVersion: string?

  @description('Lower goes first. Default: 1.')
  @minValue(0)
  @maxValue(100)
  priority: int?

  @description('Share of the calls within a priority. Default: 1.')
  @minValue(1)
  @maxValue(100)
  weight: int?

  @description('Reach it through a private endpoint in the virtual network of the gateway. Default: false.')
  privateEndpoint: bool?
}

@export()
@description('A role for a principal on the resource of the module.')
type assignment = {
  @description('Object id of the principal.')
  principalId: string

  @description('Kind of the principal.')
  principalType: 'ServicePrincipal' | 'User' | 'Group'

  @description('Id of the role: one of `roles`.')
  roleId: string
}

@export()
@description('Ids of the built-in roles. The same in every tenant.')
var roles = {
  cognitiveServicesOpenAIUser: '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd'
  keyVaultSecretsUser: '4633458b-17de-408a-b874-0445c86b69e6'
  monitoringMetricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  monitoringReader: '43d0d8ad-25c7-4714-9337-8ba259a9fe05'
  storageBlobDataContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  storageBlobDataOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  storageTableDataContributor: '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
}
